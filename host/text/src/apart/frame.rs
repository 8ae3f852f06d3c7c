//! Messages between the two processes: a length (u32, little-endian), then JSON.
use serde::{Serialize, de::DeserializeOwned};
use std::io::{Error, ErrorKind, Read, Result, Write};

/// The bytes of one message, its length in front.
pub(super) fn encode(message: &impl Serialize) -> Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = u32::try_from(frame.len() - 4).map_err(|_| Error::from(ErrorKind::FileTooLarge))?;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

pub(super) fn write(mut to: impl Write, frame: &[u8]) -> Result<()> {
    to.write_all(frame)?;
    to.flush()
}

/// The body of the next message, of `limit` bytes at most; `None` where the other side has closed.
pub(super) fn read(mut from: impl Read, limit: usize) -> Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > limit {
        return Err(Error::from(ErrorKind::FileTooLarge));
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok(Some(body))
}

pub(super) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    Ok(serde_json::from_slice(body)?)
}
