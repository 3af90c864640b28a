"""calotype: a learned image codec.

```python
import calotype
from PIL import Image

data = calotype.encode(Image.open("photo.png"), quality=60)
image = calotype.decode(data)
```
"""

from calotype.about import Info, info
from calotype.bundle import Bundle
from calotype.codec import decode, decode_array, encode, latents, models
from calotype.errors import (
    CalotypeError,
    DamagedFile,
    FormatError,
    InexactRuntime,
    InputError,
    InvalidModel,
    LimitExceeded,
    ModelError,
    ModelNotFound,
    NotCalotype,
    OptionError,
    UnsupportedFile,
)
from calotype.prior import Latents

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "CalotypeError",
    "DamagedFile",
    "FormatError",
    "InexactRuntime",
    "Info",
    "InputError",
    "InvalidModel",
    "Latents",
    "LimitExceeded",
    "ModelError",
    "ModelNotFound",
    "NotCalotype",
    "OptionError",
    "UnsupportedFile",
    "decode",
    "decode_array",
    "encode",
    "info",
    "latents",
    "models",
]
