//! A bounds-checked cursor over little-endian bytes.

pub(super) struct Bytes<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Bytes<'a> {
    pub(super) fn new(all: &'a [u8]) -> Self {
        Bytes { all, at: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn left(&self) -> usize {
        self.all.len() - self.at
    }

    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.all.len());
        let end =
            end.ok_or_else(|| format!("the file ends at byte {}, inside its header", self.all.len()))?;
        let taken = &self.all[self.at..end];
        self.at = end;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length and that many bytes of UTF-8.
    pub(super) fn string(&mut self) -> Result<&'a str, String> {
        let len = self.u64()?;
        let len = usize::try_from(len).map_err(|_| format!("a string of {len} bytes"))?;
        let at = self.at;
        std::str::from_utf8(self.take(len)?).map_err(|_| format!("the string at byte {at} is not UTF-8"))
    }
}
