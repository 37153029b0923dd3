"""Files that a person sends: pictures, or a line that says what is wrong with them."""

from PIL import Image

from ip2p_lib import images

MAX_UPLOAD = 32 * 2**20


def read_upload(data: bytes, name: str) -> Image.Image:
    """The picture in an uploaded file; of an animation the first frame.

    Raises:
        ValueError: the file is empty, too large, no picture, or a picture with too many pixels.
    """
    if not data:
        raise ValueError(f"{name} must hold a picture, but it is empty")
    if len(data) > MAX_UPLOAD:
        raise ValueError(
            f"{name} must have at most {MAX_UPLOAD // 2**20} MB, got {len(data) / 2**20:.0f}; reduce it first"
        )
    if data.lstrip()[:5].lower() in (b"<svg ", b"<?xml"):
        raise ValueError(f"{name} is a vector drawing; export it as PNG first")
    return images.from_bytes(data, name)
