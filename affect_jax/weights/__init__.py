"""Loading and keeping weights. One module a door:

* `checkpoints` saves and restores the train state of a run.
* `load_run` opens a checkpoint of a run as a model, for evaluation, export or as a start.
* `model_dir` writes and opens model directories, in which finished models are shared.
* `init_from` fills a fresh model from a run, a model directory or a released checkpoint.
* `released.convert` reads released checkpoints of other projects.
* `word_vectors` reads the vectors of class names that RALD compares images with.

`teacher` opens a run or a model directory for distillation. All report arrays that do not fit as
`differences.Differences`.
"""
