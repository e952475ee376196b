"""Reasons why a file with the name of a weights file cannot be read as one."""

import pathlib
import re
import zipfile

_HEAD = 1024
_SHORTEST_TEXT = 16
_MAGIC = {
    b"\x1f\x8b": "it is compressed with gzip; unpack it first",
    b"BZh": "it is compressed with bzip2; unpack it first",
    b"\xfd7zXZ": "it is compressed with xz; unpack it first",
    b"7z\xbc\xaf": "it is a 7z archive; unpack it first",
    b"Rar!": "it is a RAR archive; unpack it first",
    b"\x89HDF": "it is an HDF5 file, as Keras writes; only PyTorch's weights can be converted",
    b"%PDF": "it is a PDF document",
    b"version https://git-lfs": (
        "it is a Git LFS pointer, not the weights; run `git lfs pull` in its repository, or "
        "download the file itself"
    ),
}
_WEB_PAGE = (b"<!doctype html", b"<html", b"<head", b"<!--", b"<?xml")
_TEXT = re.compile(rb"[\x09\x0a\x0d\x20-\x7e\x80-\xff]+")


def why_not(path: pathlib.Path) -> str:
    """Return why a file cannot hold weights of its suffix, and what to do, or ""."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        return "it is empty; download it again"
    if reason := foreign(head):
        return reason
    suffix = path.suffix.lower()
    # safetensors: eight bytes with the length of a header, then the header in JSON.
    if len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 30:
        return "" if suffix == ".safetensors" else "it is a safetensors file; rename it so"
    if head.startswith(b"PK"):
        return _why_not_zip(path, suffix)
    if len(head) >= _SHORTEST_TEXT and _TEXT.fullmatch(head):
        first = head.decode(errors="replace").strip().splitlines() or [""]
        return f"it is a text file, which begins with {first[0][:60]!r}; download it again"
    if suffix == ".npz":
        return "it is not a zip archive, as .npz files are; download it again"
    return ""


def foreign(head: bytes) -> str:
    """Return what a file that begins with `head` is and what to do, or "" if it may hold arrays."""
    for magic, reason in _MAGIC.items():
        if head.startswith(magic):
            return reason
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_WEB_PAGE):
        return (
            "it is a web page that was saved in place of the weights; download the file itself, "
            "in a browser if the site asks for it"
        )
    return ""


def _why_not_zip(path: pathlib.Path, suffix: str) -> str:
    if not zipfile.is_zipfile(path):
        return "it was cut short or damaged: the zip archive has no end"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    listed = ", ".join(names[:3]) or "nothing"
    is_npz = bool(names) and all(name.endswith(".npy") for name in names)
    is_torch = any(name.endswith("data.pkl") for name in names)
    if suffix == ".safetensors":
        return f"it is a zip archive of {listed}; rename it to .pth if PyTorch wrote it"
    if suffix == ".npz" and is_torch:
        return "PyTorch wrote it; rename it to .pth"
    if any(name.endswith("constants.pkl") for name in names):
        return (
            "it is a TorchScript archive; open it with torch.jit.load, and save its state_dict() "
            "with torch.save"
        )
    if is_npz and suffix != ".npz":
        return "it is an .npz archive of NumPy; rename it so"
    if not (is_npz or is_torch):
        return f"it is a zip archive of {listed}; unpack it first"
    return ""


def pickled_objects(error: Exception) -> str:
    """Return what to do about a PyTorch file that needs code to open, or ""."""
    found = re.search(r"Unsupported (?:global: GLOBAL|class) (\S+)", str(error))
    if found:
        return (
            f"it holds a pickled object, {found[1]}, whose code is not run here. If it is a whole "
            "module, saved by torch.save(model), open it where its code is and save "
            "model.state_dict(), then convert that"
        )
    if "weights_only" in str(error):  # PyTorch's own advice is to let the file run its code
        return "it is a pickle, and torch.save did not write it; save model.state_dict() with it"
    return ""
