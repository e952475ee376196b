"""Tests whether a file is an image, by its ending, else by its content."""

import os

from PIL import Image, features

# Endings of what `decode` reads.
_READ = """
.jpg .jpeg .jpe .jfif .jif .pjpeg .pjp .png .bmp .dib .gif .tif .tiff .webp .avif
.ppm .pgm .pbm .pnm .jp2 .j2k .jpf .jpx
"""
IMAGE_SUFFIXES = frozenset(_READ.split())
HEIF_SUFFIXES = frozenset([".heic", ".heif", ".hif"])
# Endings of files that need not be opened to know that they are none.
_OTHERS = """
.txt .csv .tsv .json .jsonl .ndjson .xml .yaml .yml .toml .md .rst .html .htm .log .ini .db
.npy .npz .mat .pts .pkl .pickle .h5 .hdf5 .pt .pth .onnx .py .ipynb .m .sh .zip .tar .gz .7z
.rar .pdf .doc .docx .xls .xlsx .svg .psd .mp4 .avi .mov .mkv .webm .mpg .mpeg .wav .mp3 .m4a
.cr2 .cr3 .nef .arw .dng .raf .orf .rw2 .lnk .url .part .crdownload .tmp
"""
_OTHER_SUFFIXES = frozenset(_OTHERS.split())
HEAD_BYTES = 64  # of a file, for `image_format`
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def is_image(path: str, name: str) -> bool:
    """Return whether a file is an image; open it only if its ending is unknown."""
    suffix = os.path.splitext(name)[1].lower()
    if suffix in IMAGE_SUFFIXES or suffix in HEIF_SUFFIXES:
        return True
    if suffix in _OTHER_SUFFIXES:
        return False
    if not os.path.isfile(path):  # opening a pipe would wait for its other end
        return False
    try:
        with open(path, "rb", buffering=0) as file:
            return bool(image_format(file.read(HEAD_BYTES)))
    except OSError:
        return False


def image_format(head: bytes) -> str:
    """Return the image format that a file's first 64 bytes show; empty if none."""
    if head[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "bmp"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:8] == b"\0\0\0\x0cjP  " or head[:4] == b"\xff\x4f\xff\x51":
        return "jpeg2000"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in (b" ", b"\t", b"\r", b"\n"):
        return "pnm" if head[3:4] in b"#0123456789" and len(head) > 3 else ""
    if head[4:8] == b"ftyp":
        if b"avif" in head[8:] or b"avis" in head[8:]:
            return "avif"
        if head[8:12] in _HEIF_BRANDS:
            return "heif"
    return ""


def fault(name: str, head: bytes = b"") -> str:
    """Return why the format of an image cannot be read, or ""."""
    suffix = os.path.splitext(name)[1].lower()
    kind = image_format(head)
    if (kind == "heif" or (not kind and suffix in HEIF_SUFFIXES)) and not _plugin_for(".heic"):
        return "HEIC images cannot be read; convert it to JPEG or PNG"
    if (kind == "avif" or (not kind and suffix == ".avif")) and not features.check("avif"):
        return "this Pillow reads no AVIF; install Pillow 11.3 or later, or convert it to JPEG"
    return ""


def _plugin_for(suffix: str) -> bool:
    """Return whether a plugin such as pillow-heif was registered with Pillow."""
    return suffix in Image.registered_extensions()
