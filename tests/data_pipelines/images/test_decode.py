import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from data_pipelines.images.decode import decode, decode_shrunk, shrink_by
from data_pipelines.schema import DecodeError
from tests.data_pipelines.made_images import encode, smooth

PICTURE = smooth(48, 64)
GREY = PICTURE[..., 0]


def close(a, b, levels):
    return np.abs(a.astype(int) - b.astype(int)).max() <= levels


def test_jpeg_is_rgb_as_pillow_reads_it():
    data = encode(PICTURE, quality=95, subsampling=0)
    image = decode(data)
    assert image.shape == (48, 64, 3) and image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_the_pixels_back(kind):
    np.testing.assert_array_equal(decode(encode(PICTURE, kind)), PICTURE)


def test_webp_and_gif_are_read():
    assert close(decode(encode(PICTURE, "WEBP", quality=100)), PICTURE, 40)
    assert decode(encode(PICTURE, "GIF")).shape == PICTURE.shape


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_grey_pictures_become_rgb_or_stay_one_plane(kind):
    data = encode(GREY, kind)
    image = decode(data)
    assert image.shape == (48, 64, 3)
    assert (image[..., 0] == image[..., 2]).all() and close(image[..., 0], GREY, 10)
    np.testing.assert_array_equal(decode(data, grey=True), image[..., 0])


def test_colour_pictures_stay_colour_when_grey_is_allowed():
    assert decode(encode(PICTURE), grey=True).shape == (48, 64, 3)


def test_cmyk_jpeg():
    data = encode(Image.fromarray(PICTURE).convert("CMYK"), quality=95)
    assert close(decode(data), PICTURE, 30)


def test_sixteen_bit_png_is_cut_to_eight():
    deep = GREY.astype(np.uint16) * 257
    np.testing.assert_array_equal(decode(encode(deep, "PNG"))[..., 0], GREY)
    tiff = decode(encode(Image.fromarray(deep), "TIFF"))
    np.testing.assert_array_equal(tiff[..., 1], GREY)


def test_dark_sixteen_bit_picture_is_dark():
    deep = np.full((8, 8), 3 * 256, np.uint16)
    np.testing.assert_array_equal(decode(encode(deep, "PNG")), 3)


def test_alpha_is_laid_on_black():
    rgba = np.dstack([PICTURE, np.full((48, 64), 255, np.uint8)])
    rgba[:10, :, 3] = 0
    rgba[10:20, :, 3] = 128
    image = decode(encode(rgba, "PNG"))
    assert (image[:10] == 0).all()
    assert close(image[10:20], PICTURE[10:20] * (128 / 255), 1.5)
    np.testing.assert_array_equal(image[20:], PICTURE[20:])


def test_grey_with_alpha_and_palettes():
    la = Image.fromarray(GREY).convert("LA")
    np.testing.assert_array_equal(decode(encode(la, "PNG"))[..., 0], GREY)
    palette = Image.fromarray(PICTURE).quantize(200)
    expected = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(decode(encode(palette, "PNG")), expected)
    transparent = decode(encode(palette, "PNG", transparency=bytes(256)))
    assert (transparent == 0).all()


def test_one_bit_picture():
    bits = Image.fromarray(GREY > 128)
    assert set(np.unique(decode(encode(bits, "PNG")))) == {0, 255}


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_tags_are_applied(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    data = encode(PICTURE, kind, exif=exif, **options)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert close(decode(data), np.asarray(expected.convert("RGB")), 4)


def segment(marker, content):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def exif(order, kind, form, value):
    number = struct.pack(order + form, value).ljust(4, b"\0")
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, 1)
    tag = struct.pack(order + "HHI", 0x0112, kind, 1) + number
    return segment(0xE1, b"Exif\0\0" + head + tag + struct.pack(order + "I", 0))


XMP = segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<rdf:Description tiff:Orientation="6"/>')
TURNED = {
    "long": lambda jpeg: jpeg[:2] + exif(">", 4, "I", 6) + jpeg[2:],
    "signed": lambda jpeg: jpeg[:2] + exif("<", 8, "h", 6) + jpeg[2:],
    "after XMP": lambda jpeg: jpeg[:2] + XMP + exif(">", 3, "H", 8) + jpeg[2:],
    "after the tables": lambda jpeg: jpeg.replace(b"\xff\xc0", exif("<", 3, "H", 8) + b"\xff\xc0"),
    "fill byte": lambda jpeg: jpeg[:2] + b"\xff" + exif("<", 3, "H", 6) + jpeg[2:],
    "XMP alone": lambda jpeg: jpeg[:2] + XMP + jpeg[2:],
}


@pytest.mark.parametrize("name", TURNED)
def test_orientation_is_found_wherever_pillow_finds_it(name):
    data = TURNED[name](encode(PICTURE, quality=95, subsampling=0))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert expected.size == (48, 64)
    np.testing.assert_array_equal(decode(data), np.asarray(expected))


def png_with(kind, content):
    """Returns a PNG file of PICTURE with one more chunk before its pixels."""
    png = encode(PICTURE, "PNG")
    chunk = kind + content
    chunk = struct.pack(">I", len(content)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return png.replace(png[33:], chunk + png[33:])


RAW = exif(">", 3, "H", 6)[4:]
RAW_TEXT = b"\nexif\n%8d\n%s\n" % (len(RAW), RAW.hex().encode())
XMP_HEAD = b"XML:com.adobe.xmp\0"
PNG_TURNED = {
    "XMP": (b"iTXt", XMP_HEAD + b"\0\0\0\0" + XMP[4:].partition(b"\0")[2]),
    "packed XMP": (b"iTXt", XMP_HEAD + b"\1\0\0\0" + zlib.compress(XMP[4:].partition(b"\0")[2])),
    "packed Exif": (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(RAW_TEXT)),
    "Exif as text": (b"tEXt", b"Raw profile type exif\0" + RAW_TEXT),
}


@pytest.mark.parametrize("name", PNG_TURNED)
def test_orientation_of_png_is_found_in_text_too(name):
    data = png_with(*PNG_TURNED[name])
    assert ImageOps.exif_transpose(Image.open(io.BytesIO(data))).size == (48, 64)
    np.testing.assert_array_equal(decode(data), np.rot90(PICTURE, -1))


def test_damaged_exif_as_text_of_png_is_passed_over():
    data = png_with(b"tEXt", b"Raw profile type exif\0\nexif\n  4\nno numbers\n")
    np.testing.assert_array_equal(decode(data), PICTURE)


def test_transparency_after_a_long_colour_profile_is_black():
    hidden = Image.new("RGB", (16, 8), (255, 0, 255))
    profile = np.random.default_rng(0).bytes(4000)
    data = encode(hidden, "PNG", transparency=(255, 0, 255), icc_profile=profile)
    assert data.find(b"tRNS") > 4000 and (decode(data) == 0).all()


def test_damaged_exif_is_passed_over():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = bytearray(encode(PICTURE, exif=exif))
    at = data.find(b"Exif\0\0") + 6
    data[at + 4 : at + 8] = b"\xff\xff\xff\xff"  # the offset of the tags points nowhere
    assert decode(bytes(data)).shape == (48, 64, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_truncated_pictures_are_refused(kind, share):
    data = encode(smooth(96, 96), kind)
    with pytest.raises(DecodeError):
        decode(data[: int(share * len(data))])


def test_truncation_in_the_last_bytes_of_a_jpeg_is_seen():
    with pytest.raises(DecodeError, match="truncated"):
        decode(encode(PICTURE)[:-2])


def test_surplus_bytes_do_no_harm():
    for kind in ("JPEG", "PNG"):
        assert decode(encode(PICTURE, kind) + b"\0" * 100).shape == PICTURE.shape


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "zero bytes"),
        (b"\xff\xd8", "known format"),
        (b"\x89PNG\r\n\x1a\n", "truncated PNG"),
        (b"not a picture at all", "known format"),
        (b"<html>404</html>", "known format"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), "HEIC images cannot be read"),
    ],
)
def test_what_is_no_picture_is_refused_with_its_reason(data, reason):
    with pytest.raises(DecodeError, match=reason):
        decode(data)


def bomb_png(width, height):
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def test_decompression_bombs_are_refused_from_the_header():
    with pytest.raises(DecodeError, match="30000x30000 is more than"):
        decode(bomb_png(30_000, 30_000))
    with pytest.raises(DecodeError, match="40000x100 has a side of more than"):
        decode(bomb_png(40_000, 100))
    big = encode(np.zeros((300, 400, 3), np.uint8), "BMP")
    for data in (big, encode(np.zeros((300, 400, 3), np.uint8))):
        with pytest.raises(DecodeError, match="400x300 is more than 10000"):
            decode(data, max_pixels=10_000)
    gif = bytearray(encode(PICTURE, "GIF"))
    gif[6:10] = struct.pack("<HH", 60_000, 60_000)
    with pytest.raises(DecodeError):
        decode(bytes(gif))


def test_floating_point_pictures_are_refused():
    with pytest.raises(DecodeError, match="floating-point"):
        decode(encode(Image.fromarray(GREY.astype(np.float32)), "TIFF"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_shrinking_averages_pixels(kind, k):
    picture = smooth(203, 150)
    data = encode(picture, kind, **({"quality": 95} if kind == "JPEG" else {}))
    seen = []

    def shrink(height, width):
        seen.append((height, width))
        return k

    image, *used = decode_shrunk(data, shrink)
    assert used == [k, 203, 150] and seen == [(203, 150)]
    assert image.shape == (-(-203 // k), -(-150 // k), 3)
    whole = picture[: 203 // k * k, : 150 // k * k].astype(float)
    means = whole.reshape(203 // k, k, 150 // k, k, 3).mean((1, 3))
    assert np.abs(image[: 203 // k, : 150 // k] - means).max() < 8


def test_shrink_by_repeats_the_last_row_and_column():
    image = shrink_by(np.arange(9, dtype=np.uint8).reshape(3, 3), 2)
    np.testing.assert_array_equal(image, [[2, 4], [7, 8]])
