"""What a file is that bears the name of a weights file and is none."""

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
_TEXT = re.compile(rb"[\x09\x0a\x0d\x20-\x7e\x80-\xff]+")


def why_not(path: pathlib.Path) -> str:
    """Why a file cannot hold weights of its suffix, and what to do; "" if it may."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        return "it is empty; download it again"
    for magic, reason in _MAGIC.items():
        if head.startswith(magic):
            return reason
    beginning = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if beginning.startswith((b"<!doctype html", b"<html", b"<head", b"<!--", b"<?xml")):
        return (
            "it is a web page that was saved in place of the weights; download the file itself, "
            "in a browser if the site asks for it"
        )
    suffix = path.suffix.lower()
    if _is_safetensors(head):
        return "" if suffix == ".safetensors" else "it is a safetensors file; rename it so"
    if head.startswith(b"PK"):
        return _why_not_zip(path, suffix)
    if len(head) >= _SHORTEST_TEXT and _TEXT.fullmatch(head):
        first = head.decode(errors="replace").strip().splitlines() or [""]
        return f"it is a text file, which begins with {first[0][:60]!r}; download it again"
    if suffix == ".npz":
        return "it is no zip archive, as .npz files are; download it again"
    return ""


def _is_safetensors(head: bytes) -> bool:
    """A header of that many bytes of JSON follows on eight bytes of its length."""
    return len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 30


def _why_not_zip(path: pathlib.Path, suffix: str) -> str:
    if not zipfile.is_zipfile(path):
        return "it was cut short or damaged: it is no whole zip archive"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    listed = ", ".join(names[:3]) or "nothing"
    if suffix == ".npz":
        if names and all(name.endswith(".npy") for name in names):
            return ""
        if any(name.endswith("data.pkl") for name in names):
            return "PyTorch wrote it; rename it to .pth"
        return f"it is a zip archive of {listed}; unpack it first"
    if suffix == ".safetensors":
        return f"it is a zip archive of {listed}; rename it to .pth if PyTorch wrote it"
    if any(name.endswith("constants.pkl") for name in names):
        return (
            "it is a TorchScript archive; open it with torch.jit.load, and save its state_dict() "
            "with torch.save"
        )
    if names and all(name.endswith(".npy") for name in names):
        return "it is an .npz archive of NumPy; rename it so"
    if not any(name.endswith("data.pkl") for name in names):
        return f"it is a zip archive of {listed}; unpack it first"
    return ""


def pickled_objects(error: Exception) -> str:
    """What to do about a PyTorch file with objects that only code could open; "" if it has none."""
    found = re.search(r"Unsupported (?:global: GLOBAL|class) (\S+)", str(error))
    if not found and "weights_only" in str(error):
        # PyTorch's advice is to let the file run its code.
        return "it is a pickle, and torch.save did not write it; save model.state_dict() with it"
    if not found:
        return ""
    return (
        f"it holds a pickled object, {found[1]}, whose code is not run here. If it is a whole "
        "module, saved by torch.save(model), open it where its code is and save "
        "model.state_dict(), then convert that"
    )
