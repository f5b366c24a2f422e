//! A connection that ends when its client stops reading.
//!
//! While an answer cannot be written, nothing else on the connection has a clock: the request is answered, and the next one has not
//! begun. A client that never reads would hold the connection, and what the system has buffered for it, for good.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

use crate::serve::HEAD_TIMEOUT;

/// Longest time in which nothing of an answer can be written: as long as a connection may have no request, and longer than the
/// minute in which a response that is streamed must make progress, so that its own end is not taken for a broken connection.
const WRITE_TIMEOUT: Duration = HEAD_TIMEOUT;

/// Bytes of answers that the system buffers for a connection beyond those that are on their way: more than nearly all answers have.
/// By itself it would buffer megabytes for each client that does not read, outside of every limit of this process. A slow client
/// is noticed to read whenever it has read half of this.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 64 * 1024;

/// A connection whose writes fail once they have waited for [`WRITE_TIMEOUT`]. It is then reset, so that the system drops what it
/// has buffered.
pub(crate) struct ReadByItsClient {
    stream: TcpStream,
    /// Ends when the write that waits now has waited for too long; only of meaning while `is_waiting`.
    limit: Pin<Box<Sleep>>,
    is_waiting: bool,
}

impl ReadByItsClient {
    pub(crate) fn new(stream: TcpStream) -> Self {
        // Where that is not possible, more is buffered; if the connection is already closed, the next read fails.
        #[cfg(target_os = "linux")]
        let _ = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES);
        Self {
            stream,
            limit: Box::pin(sleep_until(Instant::now())),
            is_waiting: false,
        }
    }

    /// Passes on the result of a write, or fails when there has been none for too long.
    fn within_limit<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.is_waiting = false;
            return written;
        }
        if !self.is_waiting {
            self.is_waiting = true;
            self.limit.as_mut().reset(Instant::now() + WRITE_TIMEOUT);
        }
        ready!(self.limit.as_mut().poll(context));
        tracing::debug!("a client has read nothing of its answer for too long");
        // If it fails, the system keeps what is buffered a little longer.
        let _ = self.stream.set_zero_linger();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for ReadByItsClient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for ReadByItsClient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.within_limit(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.within_limit(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A socket has nothing to flush.
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
