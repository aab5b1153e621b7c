"""Every kind of upload: decoded rightly, or refused with the fix, and nothing else."""

import base64
import io
import struct
import subprocess
import sys
import weakref
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from qformer_viz.errors import ImageError
from qformer_viz.media import image_decoder, image_headers, pixels
from qformer_viz.media.image_decoder import decode
from tests.campaigns import bombs, seeds

RED, BLUE = (220, 40, 40), (20, 60, 200)


def two_tone(size=(40, 30), mode="RGB"):
    """Left half red, right half blue."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, size[0], size[1]))
    return image.convert(mode)


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def near(pixel, colour, tolerance=12):
    return all(abs(a - b) <= tolerance for a, b in zip(pixel, colour, strict=True))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, colour, rows):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_ordinary_formats(format):
    decoded = decode(encoded(two_tone(), format))
    assert decoded.image.mode == "RGB" and decoded.image.size == decoded.size == (40, 30)
    assert near(decoded.image.getpixel((5, 15)), RED) and near(decoded.image.getpixel((35, 15)), BLUE)
    assert decoded.notices == ()


def test_every_way_in_gives_the_same_picture(tmp_path):
    data = encoded(two_tone())
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    percent = "data:image/png," + "".join(f"%{byte:02x}" for byte in data)
    sources = [data, path, str(path), url, percent, two_tone(), np.asarray(two_tone()), bytearray(data)]
    assert len({decode(source).sha256 for source in sources}) == 1
    decoded = decode(data)
    assert decode(decoded) is decoded


def test_the_hash_tells_pictures_and_shapes_apart():
    flat = [Image.new("RGB", size, RED) for size in [(4, 6), (6, 4), (3, 8)]]
    assert len({decode(image).sha256 for image in [*flat, two_tone((4, 6))]}) == 4


def test_the_callers_image_is_neither_kept_nor_changed():
    image = two_tone()
    before = image.tobytes()
    decoded = decode(image)
    image.paste((0, 0, 0), (0, 0, 40, 30))
    assert decoded.image.tobytes() == before


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_rotation_is_applied(format, orientation):
    upright = two_tone((64, 32))
    upright.paste((250, 250, 250), (0, 0, 16, 16))
    # What a camera stores so that the viewer, applying the orientation, gets the upright picture back.
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(encoded(stored, format, exif=exif))
    assert decoded.size == (64, 32)
    for place, colour in {(6, 6): (250, 250, 250), (6, 26): RED, (58, 6): BLUE, (58, 26): BLUE}.items():
        assert near(decoded.image.getpixel(place), colour, 40)


def test_cmyk_comes_out_in_its_colours():
    decoded = decode(encoded(two_tone(mode="CMYK"), "JPEG", quality=95))
    assert near(decoded.image.getpixel((5, 15)), RED, 25) and near(decoded.image.getpixel((35, 15)), BLUE, 25)


def test_sixteen_bits_are_scaled_not_saturated():
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(20, 0)
    expected = np.arange(256)
    for data in [
        png(256, 20, 16, 0, b"".join(b"\0" + row.astype(">u2").tobytes() for row in ramp)),
        encoded(Image.fromarray(ramp), "TIFF"),
        ramp,
    ]:
        row = np.asarray(decode(data).image)[10, :, 1].astype(int)
        assert abs(row - expected).max() <= 1
    colour = ramp[..., None].repeat(3, 2)
    data = png(256, 20, 16, 2, b"".join(b"\0" + row.astype(">u2").tobytes() for row in colour))
    assert abs(np.asarray(decode(data).image)[10, :, 2].astype(int) - expected).max() <= 1


def test_float_and_wide_integer_samples():
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None].repeat(20, 0)
    for data in [encoded(Image.fromarray(ramp), "TIFF"), ramp, ramp * 255, ramp * 2e6 - 1e6]:
        row = np.asarray(decode(data).image)[10, :, 0].astype(int)
        assert abs(row - np.arange(256)).max() <= 1
    wide = (ramp * 60000).astype(np.int32)
    assert decode(encoded(Image.fromarray(wide), "TIFF")).image.getpixel((255, 0)) == (233, 233, 233)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_alpha_is_laid_on_white(mode):
    image = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (10, 0, 20, 20))
    image = image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)
    decoded = decode(image if mode == "PA" else encoded(image))
    if mode != "PA":
        assert decoded.image.getpixel((2, 2)) == (255, 255, 255)
    assert decoded.image.getpixel((15, 2)) == (0, 0, 0)


def test_half_transparent_is_half_white():
    decoded = decode(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128))))
    assert near(decoded.image.getpixel((1, 1)), (127, 127, 127), 1)


def test_palette_with_and_without_transparency():
    palette = two_tone(mode="P")
    assert near(decode(encoded(palette)).image.getpixel((5, 5)), RED, 40)
    index = palette.getpixel((35, 5))
    see_through = decode(encoded(palette, "GIF", transparency=index)).image
    assert see_through.getpixel((35, 5)) == (255, 255, 255) and near(see_through.getpixel((5, 5)), RED, 40)


def test_bilevel_and_grey():
    assert decode(encoded(Image.new("1", (9, 9), 1))).image.getpixel((3, 3)) == (255, 255, 255)
    assert decode(encoded(Image.new("L", (9, 9), 77))).image.getpixel((3, 3)) == (77, 77, 77)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_only_the_first_frame_is_used_and_said_so(format):
    frames = [Image.new("RGB", (20, 20), colour) for colour in (RED, BLUE, (0, 200, 0))]
    decoded = decode(encoded(frames[0], format, save_all=True, append_images=frames[1:])).still()
    assert near(decoded.image.getpixel((5, 5)), RED)
    word = "page" if format == "TIFF" else "frame"
    assert len(decoded.notices) == 1 and f"first {word} of 3" in decoded.notices[0]


def test_a_damaged_later_page_does_not_cost_the_first():
    pages = [two_tone((64, 64)).rotate(angle) for angle in (0, 90, 180)]
    data = bytearray(encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:]))

    def entries(directory):
        count = struct.unpack_from("<H", data, directory)[0]
        return [directory + 2 + 12 * entry for entry in range(count)]

    place = struct.unpack_from("<I", data, 4)[0]
    for _ in range(2):
        place = struct.unpack_from("<I", data, entries(place)[-1] + 12)[0]
    for entry in entries(place):
        if struct.unpack_from("<H", data, entry)[0] == 256:
            struct.pack_into("<H", data, entry, 60000)  # the third page has no width
    with Image.open(io.BytesIO(data)) as opened, pytest.raises((TypeError, ValueError)):  # by version
        _ = opened.n_frames
    assert near(decode(bytes(data)).image.getpixel((5, 5)), RED)


def test_a_compressed_text_bomb_is_an_image_error():
    """Pillow raises ValueError for it, not OSError."""
    plain = encoded(two_tone())
    text = chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(4 * 2**20)))
    with pytest.raises(ImageError, match="damaged"):
        decode(plain[:33] + text + plain[33:])


@pytest.mark.parametrize(
    ("size", "words"),
    [((1, 1), "Tiny"), ((10000, 10), "Extreme"), ((10, 10000), "Extreme"), ((1, 500), "Tiny")],
)
def test_tiny_and_extreme_shapes_are_accepted_with_a_notice(size, words):
    decoded = decode(encoded(two_tone(size)))
    assert decoded.size == size and any(words in notice for notice in decoded.notices)
    assert max(decoded.image.size) <= image_decoder.WORKING_SIDE and min(decoded.image.size) >= 1


def test_large_images_are_reduced_and_keep_their_shape():
    decoded = decode(encoded(two_tone((4000, 3000)), "JPEG"))
    assert decoded.image.size == (2048, 1536) and decoded.size == (4000, 3000)
    assert near(decoded.image.getpixel((100, 700)), RED) and near(decoded.image.getpixel((1900, 700)), BLUE)


def test_huge_dimensions_in_a_tiny_file_are_refused_before_decoding(monkeypatch):
    bomb = png(10000, 10000, 1, 0, zlib.compress(b"")[:0] + bytes(1251))
    assert len(bomb) < 200

    def decoded(*_):
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
    with pytest.raises(ImageError, match="100 megapixels"):
        decode(bomb)
    with pytest.raises(ImageError, match=r"too large|megapixels"):
        decode(png(60000, 60000, 1, 0, b""))


def test_limits_can_be_set():
    data = encoded(two_tone())
    with pytest.raises(ImageError, match="megapixels"):
        decode(data, max_pixels=1199)
    with pytest.raises(ImageError, match="MiB"):
        decode(data, max_bytes=len(data) - 1)
    assert decode(data, max_pixels=1200, max_bytes=len(data)).size == (40, 30)
    with pytest.raises(ImageError, match="megapixels"):
        decode(np.zeros((40, 40, 3), np.uint8), max_pixels=1599)


def test_a_file_over_the_limit_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    path.write_bytes(b"x" * 2000)
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda _: pytest.fail("read"))
    with pytest.raises(ImageError, match="MiB"):
        decode(path, max_bytes=1999)


@pytest.mark.parametrize("coding", [";base64", ""])
def test_data_urls_obey_the_byte_limit_before_they_are_decoded(coding, monkeypatch):
    monkeypatch.setattr("base64.b64decode", lambda *_, **__: pytest.fail("decoded"))
    monkeypatch.setattr("urllib.parse.unquote_to_bytes", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="MiB"):
        decode(f"data:image/png{coding}," + "A" * 9000, max_bytes=2000)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_truncated_files(format, share):
    noise = Image.effect_noise((200, 200), 80).convert("RGB")
    data = encoded(noise, format)
    with pytest.raises(ImageError, match=r"damaged|not an image"):
        decode(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (b"", "empty"),
        (b"hello, I am a text file", "not an image"),
        (b"%PDF-1.7 ...", "PDF"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC"),
        ("", "got nothing"),
        (None, "got nothing"),
        (12, "type int"),
        ("no/such/file.png", "no file 'file.png'"),
        (".", "no file"),
        ("a\0b", "no file"),
        ("https://example.org/cat.png", "not fetched"),
        ("file:///etc/passwd", "not fetched"),
        ("data:image/png;base64", "no comma"),
        ("data:image/png;base64,***", "base64"),
        ("data:,", "empty"),
        (np.zeros((3, 10, 10), np.uint8), "Move the colour channels last"),
        (np.zeros((0, 10, 3), np.uint8), "no pixels"),
        (np.full((4, 4), np.nan), "NaN"),
        (np.array([["a", "b"]]), "cannot be shown"),
    ],
)
def test_what_is_no_image_is_refused_with_the_fix(source, words):
    with pytest.raises(ImageError, match=words):
        decode(source)


def test_formats_outside_the_list_are_not_parsed():
    with pytest.raises(ImageError, match="not an image"):
        decode(encoded(two_tone(), "ICO"))
    with pytest.raises(ImageError, match="not an image"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_never_raise_anything_else(data):
    whole = data.draw(st.sampled_from(WHOLE))
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode(bytes(damaged), max_pixels=10**6)
    except ImageError as error:
        assert len(str(error)) > 20
    else:
        assert decoded.image.mode == "RGB"


WHOLE = [
    encoded(two_tone((24, 20)), format, **options)
    for format, options in [
        ("PNG", {}),
        ("JPEG", {}),
        ("GIF", {"save_all": True, "append_images": [two_tone((24, 20)).rotate(90)]}),
        ("WEBP", {}),
        ("BMP", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("PPM", {}),
    ]
]


def test_decoding_leaves_the_warning_filters_as_they_were():
    import warnings

    before = list(warnings.filters)
    decode(encoded(two_tone()))
    assert warnings.filters == before


def test_the_decoder_loads_no_model_library():
    code = "import sys, qformer_viz.media.image_decoder; print({'transformers', 'gradio'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


# What costs more than its size tells, and what was not decoded whole.


def flat(size, colour, format, frames, **options):
    """An animation of plain frames, each of another colour."""
    pictures = [Image.new("RGB", size, [colour, BLUE, (0, 200, 0)][index % 3]) for index in range(frames)]
    return encoded(pictures[0], format, save_all=True, append_images=pictures[1:], duration=50, **options)


@pytest.mark.parametrize(
    "name",
    [
        "apng_canvas",
        "gif_comment_of_single_bytes",
        "gif_comments",
        "gif_frames",
        "gif_unknown_bytes",
        "jpeg_scans",
    ],
)
def test_what_its_header_gives_away_is_not_opened(name, monkeypatch):
    data = bombs.BOMBS[name]()
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(ImageError, match=r"megapixels|blocks|scans"):
        decode(data)


@pytest.mark.parametrize("kind", [b"VP8X", b"VP8L", b"VP8 "])
def test_a_webp_tells_its_size_in_each_of_its_kinds(kind, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    width, height = 16000, 15999
    content = {
        b"VP8X": bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"),
        b"VP8L": b"\x2f" + ((width - 1) | (height - 1) << 14).to_bytes(4, "little"),
        b"VP8 ": b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height),
    }[kind]
    data = b"RIFF" + bytes(4) + b"WEBP" + kind + struct.pack("<I", len(content)) + content + bytes(20)
    with pytest.raises(ImageError, match="16000 × 15999 = 256 megapixels"):
        decode(data)


def test_a_webp_is_refused_where_its_reader_holds_it_too_often():
    with pytest.raises(ImageError, match=r"at most 20 are accepted. Save it as JPEG"):
        decode(b"RIFF" + bytes(4) + b"WEBPVP8X" + bytes(8) + (4999).to_bytes(3, "little") * 2)


@pytest.mark.parametrize("dispose", [0, 2])
def test_a_gif_whose_frame_outgrows_its_screen_is_its_first_frame(dispose):
    assert image_headers.read(bombs.gif_growing_frame(30000, 30000, dispose), image_decoder.MAX_PIXELS).grows
    decoded = decode(bombs.gif_growing_frame(30000, 30000, dispose))
    assert decoded.size == decoded.image.size == (10, 10) and decoded.video is None
    assert "only the first frame of 4" in decoded.notices[0]


def test_a_tiff_of_very_many_pages_is_not_walked_through(monkeypatch):
    monkeypatch.setattr(
        "PIL.TiffImagePlugin.TiffImageFile.n_frames", property(lambda _: pytest.fail("walked"))
    )
    decoded = decode(bombs.tiff_pages(3000))
    assert "first page of 3000" in decoded.notices[0]


def test_a_tiff_whose_pages_go_round_in_a_circle_ends():
    data = bytearray(bombs.tiff_pages(2))
    end = data.rindex(struct.pack("<I", 0) + b"\x80\0")
    struct.pack_into("<I", data, end, 8)
    assert image_headers.tiff_pages(bytes(data)) == 2


@pytest.mark.parametrize("format", ["PNG", "GIF", "WEBP"])
def test_frames_are_reduced_one_by_one(format, monkeypatch):
    """When a frame is decoded, those before it have their working size."""
    monkeypatch.setattr(image_decoder, "WORKING_SIDE", 20)
    alive, working = [], image_decoder._working

    def counted(frame, size=None):
        alive[:] = [ref for ref in alive if ref() is not None]
        assert not alive, "an earlier frame is still there at full size"
        alive.append(weakref.ref(frame))
        return working(frame, size)

    monkeypatch.setattr(image_decoder, "_working", counted)
    decoded = decode(flat((60, 40), RED, format, 6))
    assert [frame.size for frame in decoded.frames] == [(20, 13)] * 4 and decoded.size == (60, 40)


@pytest.mark.parametrize("format", ["PNG", "GIF", "WEBP"])
def test_an_animation_too_large_to_be_held_several_times_is_its_first_frame(format, monkeypatch):
    monkeypatch.setattr("qformer_viz.media.video.MAX_CANVAS", 30 * 40 - 1)
    decoded = decode(flat((40, 30), RED, format, 5))
    assert decoded.video is None and near(decoded.image.getpixel((9, 9)), RED)
    assert "only the first frame of 5" in decoded.notices[0]


def lzw(codes):
    """GIF image data of 9-bit codes: 256 clears, 257 ends."""
    bits = sum(code << 9 * place for place, code in enumerate(codes))
    data = bits.to_bytes(-(-9 * len(codes) // 8), "little")
    return b"\x08" + bytes([len(data)]) + data + b"\0"


def gif_of(*frames):
    frame = b"," + struct.pack("<HHHHB", 0, 0, 4, 4, 0)
    head = b"GIF89a" + struct.pack("<HHBBB", 4, 4, 0xF7, 0, 0)
    return head + bytes(range(256)) * 3 + b"".join(frame + lzw(codes) for codes in frames) + b";"


GOOD, SHORT = [256, *range(16), 257], [256, 1, 2, 3, 257]


def test_a_damaged_first_frame_is_damaged_whatever_comes_behind_it():
    assert decode(gif_of(GOOD, GOOD)).video is not None
    for broken in (gif_of(SHORT), gif_of(SHORT, GOOD), gif_of(SHORT, GOOD, GOOD, GOOD, GOOD)):
        with pytest.raises(ImageError, match="damaged"):
            decode(broken)


def test_after_a_damaged_later_frame_the_first_one_is_read_afresh():
    decoded = decode(gif_of(GOOD, SHORT, GOOD))
    assert decoded.video is None and decoded.sha256 == decode(gif_of(GOOD)).sha256


def test_a_png_whose_rows_end_early_is_damaged():
    rows = [b"\0" + bytes([200] * 30) for _ in range(20)]
    whole = png(30, 20, 8, 0, b"".join(rows))
    assert decode(whole).image.getpixel((3, 19)) == (200, 200, 200)
    with pytest.raises(ImageError, match="rows end early"):
        decode(png(30, 20, 8, 0, b"".join(rows[:12])))
    black = [*rows[:12], *[bytes(31)] * 8]
    assert decode(png(30, 20, 8, 0, b"".join(black))).image.getpixel((3, 19)) == (0, 0, 0)


def test_a_png_in_seven_passes_that_ends_early_is_damaged():
    decode(seeds.interlaced_png())
    data = bombs.png(16, 16, 8, 0, chunk(b"IDAT", zlib.compress(b"\0\xff\xff" * 4)), interlaced=1)
    with pytest.raises(ImageError, match="rows end early"):
        decode(data)


@pytest.mark.parametrize("which", [0, 2])
def test_an_animated_png_with_a_short_frame(which):
    """The first one costs the picture, a later one the film."""
    content = [
        zlib.compress((b"\0" + bytes([99 + index]) * 8) * (3 if index == which else 8)) for index in range(4)
    ]
    control = [chunk(b"fcTL", struct.pack(">IIIIIHHBB", n, 8, 8, 0, 0, 1, 10, 0, 0)) for n in (0, 1, 3, 5)]
    parts = [chunk(b"acTL", struct.pack(">II", 4, 0)), control[0], chunk(b"IDAT", content[0])]
    for index, number in ((1, 2), (2, 4), (3, 6)):
        parts += [control[index], chunk(b"fdAT", struct.pack(">I", number) + content[index])]
    data = bombs.png(8, 8, 8, 0, *parts)
    if which == 0:
        with pytest.raises(ImageError, match="rows end early"):
            decode(data)
    else:
        decoded = decode(data)
        assert decoded.video is None and decoded.image.getpixel((7, 7)) == (99, 99, 99)


@pytest.mark.parametrize("marker", [b"\xff\xd9", b"\xff\x37"])
def test_a_jpeg_whose_pixels_end_early_is_damaged(marker):
    data = encoded(Image.effect_noise((200, 200), 80).convert("RGB"), "JPEG")
    with pytest.raises(ImageError, match="damaged"):
        decode(data[: len(data) // 2] + marker + data[len(data) // 2 + 2 :])


def test_a_grey_jpeg_and_one_with_more_behind_it_are_whole():
    grey, scene = encoded(Image.new("RGB", (40, 30), (128, 128, 128)), "JPEG"), encoded(two_tone(), "JPEG")
    for data in (grey, scene + b"more" * 20, scene + scene, encoded(two_tone(), "JPEG", progressive=True)):
        assert decode(data).size == (40, 30)


@pytest.mark.parametrize("method", ["pathlib.Path.read_bytes", "pathlib.Path.is_file"])
def test_a_file_that_may_not_be_read_is_said_to_be_one(method, tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(two_tone()))

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(method, refuse)
    with pytest.raises(ImageError, match=r"'picture.png' is there, but this program may not read it"):
        decode(path)


def test_a_file_that_the_disk_does_not_give_is_not_called_damaged(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(two_tone()))

    def fail(self):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("pathlib.Path.read_bytes", fail)
    with pytest.raises(ImageError, match=r"cannot be read .*Check the disk"):
        decode(path)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "CMYK", "1", "I;16", "I", "F"])
def test_bands_give_the_same_pixels_as_the_whole_at_once(mode, monkeypatch):
    image = seeds.scene(5, (50, 37))
    if mode in ("I;16", "I", "F"):
        samples = np.asarray(image.convert("L")).astype(
            {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        )
        image = Image.fromarray(samples * {"I;16": 200, "I": 70000, "F": -1.5}[mode])
    else:
        image = image.convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(seeds.scene(6, (50, 37)).convert("L"))
    if mode == "P":
        image.info["transparency"] = 7
    whole = pixels.to_rgb(image).tobytes()
    monkeypatch.setattr(pixels, "BAND", 50 * 4)
    assert pixels.to_rgb(image).tobytes() == whole
    halved = Image.frombytes("RGB", image.size, whole).reduce(2)
    assert pixels.to_rgb(image, 2).tobytes() == halved.tobytes()


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_picture_over_the_exact_size_is_halved_on_its_way(format, orientation, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(seeds.scene(2, (301, 201)), format, exif=exif)
    monkeypatch.setattr(image_decoder, "WORKING_SIDE", 100)
    exact = decode(data)
    monkeypatch.setattr(image_decoder, "EXACT", 60_000)
    halved = decode(data)
    assert halved.size == exact.size == ((201, 301) if orientation == 6 else (301, 201))
    assert halved.image.size == exact.image.size
    difference = np.asarray(halved.image).astype(int) - np.asarray(exact.image)
    assert np.abs(difference).mean() < 2


def test_the_callers_large_picture_is_not_drafted(monkeypatch):
    monkeypatch.setattr(image_decoder, "EXACT", 100)
    picture = Image.open(io.BytesIO(encoded(two_tone((400, 300)), "JPEG")))
    decode(picture)
    assert picture.size == (400, 300)
