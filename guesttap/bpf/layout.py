"""Where the running kernel keeps what the programs read: offsets, argument numbers, flag bits."""

from __future__ import annotations

import mmap
from typing import NamedTuple, Optional, Tuple

from guesttap.bpf.btf import Btf, Struct
from guesttap.bpf.errors import KernelTypesError


class KernelLayout(NamedTuple):
    """Byte offsets and sizes in this kernel's structs, as far as the programs need them."""

    queue_argument: int  # number of the bio among block_bio_queue's arguments
    complete_argument: int  # and among block_bio_complete's
    bio_opf: int
    bio_status: int
    bio_vecs: int
    bio_device: int  # bi_bdev (since 5.12) or bi_disk
    bio_crypt: Optional[int]  # noqa: UP045  None: built without inline encryption
    device_disk: Optional[int]  # noqa: UP045  block_device.bd_disk; None: bio_device is the gendisk
    disk_major: int  # first_minor follows it at once
    iter_sector: int  # these four from the start of the bio
    iter_size: int
    iter_index: int
    iter_done: int
    vec_page: int
    vec_length: int
    vec_offset: int
    vec_bytes: int
    bio_next: int
    bio_private: int
    request_bio: int
    request_sector: int
    request_flags: int
    request_to_disk: Tuple[int, ...]  # noqa: UP006  offsets of the pointers from a request to its gendisk
    page_bytes: int  # sizeof(struct page)
    page_shift: int

    @property
    def bio_window(self) -> int:
        """Bytes from the bio's start that hold all that the programs read, a multiple of 8."""
        ends = [self.bio_opf + 4, self.bio_status + 1, self.bio_vecs + 8, self.bio_device + 8]
        ends += [self.iter_sector + 8, self.iter_size + 4, self.iter_index + 4, self.iter_done + 4]
        if self.bio_crypt is not None:
            ends.append(self.bio_crypt + 8)
        return (max(ends) + 7) & ~7

    @property
    def bio_links_window(self) -> int:
        """Bytes from the bio's start that hold its place, size and links, a multiple of 8."""
        ends = [self.bio_next + 8, self.bio_private + 8, self.iter_sector + 8, self.iter_size + 4]
        return (max(ends) + 7) & ~7


class FlagMasks(NamedTuple):
    """Bits of a record's `opf` in this kernel."""

    sync: int
    meta: int
    fua: int
    preflush: int


def _member(layout: Struct, owner: str, *names: str) -> int:
    for name in names:
        if name in layout:
            return int(layout[name])
    raise KernelTypesError("struct {} of this kernel lacks {}".format(owner, " and ".join(names)))


def read_layout(btf: Btf) -> KernelLayout:
    """Work the layout out from the kernel's types; raises KernelTypesError for an unknown kernel."""
    bio, iterator, vec = btf.struct("bio"), btf.struct("bvec_iter"), btf.struct("bio_vec")
    disk, page = btf.struct("gendisk"), btf.struct("page")
    request = btf.struct("request")
    start = _member(bio, "bio", "bi_iter")
    by_device = "bi_bdev" in bio
    major = _member(disk, "gendisk", "major")
    if _member(disk, "gendisk", "first_minor") != major + 4:
        raise KernelTypesError("struct gendisk of this kernel keeps first_minor away from major")
    return KernelLayout(
        # Older kernels pass the request queue first: the bio is the last argument of both.
        queue_argument=btf.tracepoint_arguments("block_bio_queue") - 1,
        complete_argument=min(1, btf.tracepoint_arguments("block_bio_complete") - 1),
        bio_opf=_member(bio, "bio", "bi_opf"),
        bio_status=_member(bio, "bio", "bi_status"),
        bio_vecs=_member(bio, "bio", "bi_io_vec"),
        bio_device=_member(bio, "bio", "bi_bdev", "bi_disk"),
        bio_crypt=bio.get("bi_crypt_context"),
        device_disk=_member(btf.struct("block_device"), "block_device", "bd_disk") if by_device else None,
        disk_major=major,
        iter_sector=start + _member(iterator, "bvec_iter", "bi_sector"),
        iter_size=start + _member(iterator, "bvec_iter", "bi_size"),
        iter_index=start + _member(iterator, "bvec_iter", "bi_idx"),
        iter_done=start + _member(iterator, "bvec_iter", "bi_bvec_done"),
        vec_page=_member(vec, "bio_vec", "bv_page"),
        vec_length=_member(vec, "bio_vec", "bv_len"),
        vec_offset=_member(vec, "bio_vec", "bv_offset"),
        vec_bytes=vec.size,
        bio_next=_member(bio, "bio", "bi_next"),
        bio_private=_member(bio, "bio", "bi_private"),
        request_bio=_member(request, "request", "bio"),
        request_sector=_member(request, "request", "__sector"),
        request_flags=_member(request, "request", "cmd_flags"),
        request_to_disk=_path_to_disk(btf, request),
        page_bytes=page.size,
        page_shift=mmap.PAGESIZE.bit_length() - 1,
    )


def _path_to_disk(btf: Btf, request: Struct) -> Tuple[int, ...]:  # noqa: UP006
    if "rq_disk" in request:  # until 5.16
        return (request["rq_disk"],)
    queue = _member(request, "request", "q")
    return (queue, _member(btf.struct("request_queue"), "request_queue", "disk"))


def read_flag_masks(btf: Btf) -> FlagMasks:
    """Return the kernel's bits for sync, meta, FUA and pre-flush."""
    bits = btf.enum("req_flag_bits")
    try:
        return FlagMasks(*(1 << bits["__REQ_" + name] for name in ("SYNC", "META", "FUA", "PREFLUSH")))
    except KeyError as missing:
        raise KernelTypesError(f"enum req_flag_bits of this kernel lacks {missing}") from None
