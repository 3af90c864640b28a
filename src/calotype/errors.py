"""Everything that can go wrong, as one tree.

```
CalotypeError
├── FormatError          the bytes are not a .calo file that this version can read
│   ├── NotCalotype      they do not begin like one
│   ├── UnsupportedFile  they use a version or feature that this version does not know
│   ├── DamagedFile      a checksum, length or field does not hold: the file was changed or cut
│   └── LimitExceeded    they declare more than the reader allows (pixels, metadata)
├── InexactRuntime       the file is whole, but this machine's runtime computed other latents than the encoder's
├── ModelError           a model cannot be had or used
│   ├── ModelNotFound    no installed model has this id or name
│   └── InvalidModel     a model file breaks the rules for bundles
├── InputError           a picture cannot be encoded, or has no such part, as asked
└── OptionError          an option's value is out of range, or options contradict each other (also a ValueError)
```
"""

from __future__ import annotations


class CalotypeError(Exception):
    """Root of all errors that calotype raises on purpose."""


class FormatError(CalotypeError):
    """The bytes are not a `.calo` file that this version can read."""


class NotCalotype(FormatError):  # noqa: N818 (named by what the bytes are)
    """The bytes do not begin like a `.calo` file."""


class UnsupportedFile(FormatError):  # noqa: N818
    """The file uses a version or a feature that this version does not know."""


class DamagedFile(FormatError):  # noqa: N818
    """A checksum, length or field does not hold: the file was changed or cut."""


class LimitExceeded(FormatError):  # noqa: N818
    """The file declares more than the reader allows."""


class InexactRuntime(CalotypeError):  # noqa: N818
    """The file is whole, but this runtime computed other latents than the encoder's did."""


class ModelError(CalotypeError):
    """A model cannot be had or used."""


class ModelNotFound(ModelError):  # noqa: N818
    """No installed model has this id or name."""


class InvalidModel(ModelError):  # noqa: N818
    """A model file breaks the rules for bundles."""


class InputError(CalotypeError):
    """A picture cannot be encoded, or has no such part, as asked."""


class OptionError(CalotypeError, ValueError):
    """An option's value is out of range, or options contradict each other."""
