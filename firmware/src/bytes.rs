//! A cursor over bytes that somebody else wrote: every read is checked against what is there. Firmware writes the smallest octet of a
//! number first, a TPM the largest: what a TPM wrote is read by what is called `tpm_…`.

/// Something wanted to read beyond the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it ends at byte {end}, where {wanted} more bytes were promised")]
pub struct Short {
    /// Where the bytes end, or where what is read begins.
    pub end: usize,
    /// How many were wanted there.
    pub wanted: usize,
}

/// Little-endian numbers and slices, one behind the other.
#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a> {
    octets: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) const fn new(octets: &'a [u8]) -> Self {
        Self { octets, at: 0 }
    }

    pub(crate) const fn position(&self) -> usize {
        self.at
    }

    pub(crate) const fn is_at_end(&self) -> bool {
        self.at >= self.octets.len()
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.octets.get(self.at..).unwrap_or_default()
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Short> {
        let short = Short { end: self.octets.len(), wanted: length };
        let end = self.at.checked_add(length).ok_or(short)?;
        let taken = self.octets.get(self.at..end).ok_or(short)?;
        self.at = end;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Short> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn short(&mut self) -> Result<u16, Short> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn word(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn long(&mut self) -> Result<u64, Short> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length that stands in 32 bits.
    pub(crate) fn length(&mut self) -> Result<usize, Short> {
        self.word().map(|length| usize::try_from(length).unwrap_or(usize::MAX))
    }

    pub(crate) fn tpm_short(&mut self) -> Result<u16, Short> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn tpm_word(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_be_bytes)
    }

    /// What the TPM calls a `TPM2B`: octets, with their number in front.
    pub(crate) fn tpm_sized(&mut self) -> Result<&'a [u8], Short> {
        let length = self.tpm_short()?;
        self.take(usize::from(length))
    }
}
