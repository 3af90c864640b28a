"""Archives: many images, and if asked their model, in one `.caloset` file (SPEC.md, section 9).

```python
from calotype.archive import Archive

with Archive("digits.caloset") as archive:
    print(len(archive), archive.names[:3])
    image = archive["000007"]  # or archive[7]
```
"""

from calotype.archive.reader import Archive, Entry
from calotype.archive.rows import Kind
from calotype.archive.writer import ArchiveWriter

__all__ = ["Archive", "ArchiveWriter", "Entry", "Kind"]
