"""Names of the data sets that can be prepared, their builders and label trees."""

# Name, and module in `data_pipelines.datasets` -> class in it.
BUILDERS = {
    "affectnet": "AffectNet",
    "afew_va": "AfewVa",
    "aff_wild2": "AffWild2",
    "ck_plus": "CkPlus",
    "fer2013": "Fer2013",
    "ferg_db": "FergDb",
    "ferplus": "FerPlus",
    "fg_emotions": "FgEmotions",
    "jaffe": "Jaffe",
    "landmarks_300w": "Landmarks300w",
    "manifest": "Manifest",
    "raf_db": "RafDb",
    "sewa": "Sewa",
    "sfew": "Sfew",
}
# Name -> tree over its classes, in `data_pipelines.hierarchies`.
HIERARCHIES = {"fg_emotions": "fg_emotions"}
