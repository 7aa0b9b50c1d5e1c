//! Frames of the control socket, each under a deadline, or patiently, where a client may stand still for as long as it
//! likes.

use outlast_model::timeout;
use outlast_wire::control::MAX_FRAME;
use serde_json::Value;
use std::io;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Why a client was hung up on.
#[derive(Debug, Error)]
pub(super) enum ClientError {
    #[error("not of this user")]
    Stranger,
    #[error("frame of {0} bytes")]
    TooLong(u32),
    #[error("silent")]
    Silent,
    #[error("not the protocol")]
    Malformed(#[source] serde_json::Error),
    #[error("connection failed")]
    Io(#[from] io::Error),
}

/// The next frame, or `None` when the client hung up between frames. All of it must come within the deadline.
pub(super) async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Value>, ClientError> {
    tokio::time::timeout(timeout::CONTROL, receive_patiently(stream))
        .await
        .map_err(|_| ClientError::Silent)?
}

/// The same, however long the client takes. Cancelling it may lose a part of a frame: whoever does hangs
/// up, or keeps the future.
pub(super) async fn receive_patiently(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<Value>, ClientError> {
    let mut length = [0; 4];
    let begun = stream.read(&mut length).await?;
    if begun == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut length[begun..]).await?;
    let length = u32::from_be_bytes(length);
    if length as usize > MAX_FRAME {
        return Err(ClientError::TooLong(length));
    }
    // Read as it comes: an announced length alone takes no memory.
    let mut body = Vec::new();
    if stream.take(u64::from(length)).read_to_end(&mut body).await? < length as usize {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    serde_json::from_slice(&body).map(Some).map_err(ClientError::Malformed)
}

/// Sends a message, as [`serde_json::to_vec`] made it, within the deadline.
pub(super) async fn send(
    stream: &mut (impl AsyncWrite + Unpin),
    message: serde_json::Result<Vec<u8>>,
) -> Result<(), ClientError> {
    let sent = send_patiently(stream, message);
    tokio::time::timeout(timeout::CONTROL, sent).await.map_err(|_| ClientError::Silent)?
}

/// The same, however long the client takes to take it.
pub(super) async fn send_patiently(
    stream: &mut (impl AsyncWrite + Unpin),
    message: serde_json::Result<Vec<u8>>,
) -> Result<(), ClientError> {
    let body = message.map_err(ClientError::Malformed)?;
    let length = u32::try_from(body.len()).map_err(|_| ClientError::TooLong(u32::MAX))?;
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&body);
    Ok(stream.write_all(&frame).await?)
}
