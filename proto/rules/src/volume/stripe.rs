//! Where the bytes of a striped file are, and how long the file is.
//!
//! Block `b` lies at position `(first + b) mod width` of the group, in a dense file there, at
//! offset `(b / width) * block`. Pure arithmetic; sizes in bytes.

/// How one file is striped; fixed when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Position of the inode's own set in its group.
    pub first: u16,
    /// Sets of the group: at least 1.
    pub width: u16,
    /// Bytes of a block: at least 1.
    pub block: u32,
}

/// A run of bytes within one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub position: u16,
    /// In the file.
    pub offset: u64,
    /// In the data file at that position.
    pub dense: u64,
    pub len: u64,
}

/// A data file at one position, as its set tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataEnd {
    pub position: u16,
    /// Of the last truncation that it has seen.
    pub generation: u64,
    /// Its length.
    pub dense: u64,
}

/// The logical size in the inode's meta.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StripedSize {
    /// Counts truncations.
    pub generation: u64,
    pub size: u64,
}

impl Geometry {
    fn widths(&self) -> (u64, u64) {
        (u64::from(self.width.max(1)), u64::from(self.block.max(1)))
    }

    /// Blocks of the data file at a position come from every `width`th block, from this one on.
    fn first_block(&self, position: u16) -> u64 {
        let (width, _) = self.widths();
        (u64::from(position) + width - u64::from(self.first) % width) % width
    }

    /// The pieces of `offset..offset + len`, in order; one for each block touched.
    pub fn pieces(&self, offset: u64, len: u64) -> Vec<Piece> {
        let (width, block) = self.widths();
        let end = offset.saturating_add(len);
        let mut pieces = Vec::new();
        let mut at = offset;
        while at < end {
            let number = at / block;
            let until = end.min((number + 1).saturating_mul(block));
            let position = (u64::from(self.first) + number) % width;
            let dense = number / width * block + at % block;
            let position = u16::try_from(position).unwrap_or(0);
            pieces.push(Piece { position, offset: at, dense, len: until - at });
            at = until;
        }
        pieces
    }

    /// Where the last byte of a data file of that length lies in the file: one past it.
    pub fn end_of(&self, position: u16, dense: u64) -> u64 {
        let (width, block) = self.widths();
        let Some(last) = dense.checked_sub(1) else { return 0 };
        let number =
            (last / block).saturating_mul(width).saturating_add(self.first_block(position));
        number.saturating_mul(block).saturating_add(last % block + 1)
    }

    /// How long the data file at a position may be in a file of that size.
    pub fn dense_max(&self, position: u16, size: u64) -> u64 {
        let (width, block) = self.widths();
        let (whole, rest) = (size / block, size % block);
        let first = self.first_block(position);
        let full = whole.saturating_sub(first).div_ceil(width) * block;
        // The last, partial block is here.
        if rest > 0 && whole % width == first { full + rest } else { full }
    }
}

/// A recount's result: the size, and the data files that are longer than it, with what they
/// are cut to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recounted {
    pub size: u64,
    pub cut: Vec<(u16, u64)>,
}

/// The size after a holder that ended without saying it: what the meta says, and what data files
/// of its generation hold beyond that. Ends of older generations are of before the last
/// truncation: ignored (trap 42).
pub fn recount(geometry: &Geometry, meta: StripedSize, ends: &[DataEnd]) -> Recounted {
    let counts = |end: &&DataEnd| {
        end.generation == meta.generation
            || crate::plant::planted(crate::plant::Plant::NoGenerations)
    };
    let ends_there = ends.iter().filter(counts).map(|e| geometry.end_of(e.position, e.dense));
    let size = ends_there.fold(meta.size, u64::max);
    let longer = ends.iter().filter_map(|end| {
        let max = geometry.dense_max(end.position, size);
        (end.dense > max).then_some((end.position, max))
    });
    Recounted { size, cut: longer.collect() }
}

#[cfg(test)]
#[path = "stripe_test.rs"]
mod tests;
