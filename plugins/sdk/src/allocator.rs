//! The guest's allocator: it allocates from the end of the used memory and reuses only large freed blocks.
//!
//! The host creates a fresh instance for every delivery and drops it with all its memory afterwards, so freeing block by block is
//! wasted work: on a large delivery it costs as much as reading the JSON. A delivery's memory stays bounded by its size, and the
//! host's limit on linear memory bounds it in any case.
//!
//! The largest freed block is kept for the next large allocation that fits into it: `normalize` gets the body where
//! `authenticate` had it, in memory that is already there.
#![allow(unsafe_code)]

use core::alloc::{GlobalAlloc, Layout};
use core::arch::wasm32;
use core::cell::Cell;

/// The size of a WebAssembly page, fixed by the specification.
const PAGE_BYTES: usize = 64 * 1024;

/// The size from which on a freed block is worth remembering. Every free checks this, and most are of texts.
const LARGE_BYTES: usize = PAGE_BYTES;

#[cfg(target_os = "unknown")]
unsafe extern "C" {
    /// A symbol whose address is the end of the module's own data; the linker defines it.
    static __heap_base: u8;
}

/// The largest number of pages to request beyond those needed: 4 MiB, a sixteenth of what a host allows by default. The host ends
/// a delivery that exceeds its limit, so what is requested needlessly must be small compared to it.
const MOST_SPARE_PAGES: usize = 64;

pub(crate) struct Bump {
    /// Address of the first byte that has not been handed out; 0 before the first call.
    next: Cell<usize>,
    /// Address one past the last byte of memory that this allocator owns.
    end: Cell<usize>,
    /// The largest block that was freed: the address of its first byte, and one past its last.
    freed: Cell<(usize, usize)>,
}

// SAFETY: a component has one thread.
unsafe impl Sync for Bump {}

#[global_allocator]
pub(crate) static ALLOCATOR: Bump = Bump {
    next: Cell::new(0),
    end: Cell::new(0),
    freed: Cell::new((0, 0)),
};

impl Bump {
    /// Returns a block within the freed one, if it fits.
    #[cold]
    fn reuse(&self, layout: Layout) -> Option<*mut u8> {
        let (from, to) = self.freed.get();
        let start = (from + layout.align() - 1) & !(layout.align() - 1);
        let end = start.checked_add(layout.size()).filter(|end| *end <= to)?;
        self.freed.set((end, to));
        Some(start as *mut u8)
    }

    /// Makes at least `bytes` more bytes available; returns false if memory is already as large as the module itself allows. A
    /// host that allows less ends the delivery instead.
    #[cold]
    fn grow(&self, bytes: usize) -> bool {
        // The unused rest of the memory that the module starts with is enough for a delivery of a few events. Using it saves a
        // request for more, which costs the host as much as creating the instance. With WASI, libc claims this memory for itself.
        #[cfg(target_os = "unknown")]
        if self.end.get() == 0 {
            self.next.set(&raw const __heap_base as usize);
            self.end.set(wasm32::memory_size::<0>() * PAGE_BYTES);
            return true;
        }
        // Growing by a quarter of the current size, up to `MOST_SPARE_PAGES`, if less is needed keeps the number of calls small.
        let spare_pages = (wasm32::memory_size::<0>() / 4).min(MOST_SPARE_PAGES);
        let grown_by = bytes.div_ceil(PAGE_BYTES).max(spare_pages);
        let grown_from = wasm32::memory_grow::<0>(grown_by);
        if grown_from == usize::MAX {
            return false;
        }
        let grown_at = grown_from * PAGE_BYTES;
        if self.end.get() != grown_at {
            self.next.set(grown_at);
        }
        self.end.set(grown_at + grown_by * PAGE_BYTES);
        true
    }
}

// SAFETY: a block is cut from memory behind the module's data, or that `memory.grow` gave to this allocator alone, aligned as
// requested, or from a freed block, which is forgotten as far as it is used again; `realloc` extends only the block that ends
// where free memory begins.
unsafe impl GlobalAlloc for Bump {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= LARGE_BYTES
            && let Some(block) = self.reuse(layout)
        {
            return block;
        }
        loop {
            let start = (self.next.get() + layout.align() - 1) & !(layout.align() - 1);
            // Memory ends at 4 GiB at most, which this sum exceeds only if the size itself is absurd.
            match start.checked_add(layout.size()) {
                Some(end) if end <= self.end.get() => {
                    self.next.set(end);
                    return start as *mut u8;
                }
                Some(_) => {}
                None => return core::ptr::null_mut(),
            }
            if !self.grow(layout.size() + layout.align()) {
                return core::ptr::null_mut();
            }
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let (from, to) = self.freed.get();
        if layout.size() >= LARGE_BYTES && layout.size() > to - from {
            let start = block as usize;
            self.freed.set((start, start + layout.size()));
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let start = block as usize;
        if new_size <= layout.size() {
            return block;
        }
        // The last block grows in place, also into newly requested memory: a list that doubles again and again would otherwise
        // take twice its size.
        let is_last = || start + layout.size() == self.next.get();
        if is_last()
            && let Some(end) = start.checked_add(new_size)
        {
            let missing = end.saturating_sub(self.end.get());
            if missing == 0 || (self.grow(missing) && is_last()) {
                self.next.set(end);
                return block;
            }
        }
        // SAFETY: the caller guarantees that the new size is valid for the layout's alignment.
        let moved = unsafe { self.alloc(Layout::from_size_align_unchecked(new_size, layout.align())) };
        if !moved.is_null() {
            // SAFETY: the new block is larger than the old one and does not overlap it.
            unsafe { core::ptr::copy_nonoverlapping(block, moved, layout.size()) };
            // SAFETY: the caller does not use the old block any more.
            unsafe { self.dealloc(block, layout) };
        }
        moved
    }
}
