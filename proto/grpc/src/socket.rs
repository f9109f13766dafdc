//! What every TCP connection of Brickwork is set to, on both of its ends.

use std::io;
use std::os::fd::AsFd;

use rustix::net::sockopt;

/// Sends small messages at once, and after a loss tries again each 200 ms or so instead of
/// ever more rarely: the kernel would double its patience with each packet lost, and a link
/// that was cut for 0.9 s would be silent for 1.6 s, longer than promises may wait.
///
/// Linear time-outs hold for connections with fewer than four packets on their way, and for six
/// tries; streams of bulk data keep the kernel's way.
///
/// # Errors
/// Not a TCP socket.
pub fn prepare(socket: impl AsFd) -> io::Result<()> {
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_tcp_thin_linear_timeouts(&socket, true)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_prepared() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        prepare(&stream).unwrap();
        assert!(sockopt::tcp_nodelay(&stream).unwrap());
        assert!(sockopt::tcp_thin_linear_timeouts(&stream).unwrap());
    }
}
