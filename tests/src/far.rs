//! A server that is far away: a proxy on loopback that hands every byte on a while after it came.
//!
//! It bounds no rate: what is on its way at once is limited by the windows of the two ends alone, as
//! on a long line. (The kernel's own `netem` is missing where labs often run.)

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// Largest piece that is handed on at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Chunks on their way in one direction: far more than any window.
const CHUNKS: usize = 512;

/// The near end. Its threads end with the program.
#[derive(Debug)]
pub struct Far {
    /// Where to connect instead.
    pub port: u16,
}

impl Far {
    /// A line to this port of this machine, that long in each direction.
    ///
    /// # Errors
    /// When no port can be listened on.
    pub fn towards(port: u16, one_way: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let near = listener.local_addr()?.port();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // Who calls a server that is not there is hung up on, as without the line.
                if let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
                    let _ = carry(stream, server, one_way);
                }
            }
        });
        Ok(Self { port: near })
    }
}

fn carry(near: TcpStream, far: TcpStream, one_way: Duration) -> io::Result<()> {
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
    }
    for (from, to) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
        let (sender, receiver) = mpsc::sync_channel(CHUNKS);
        thread::spawn(move || take_in(from, &sender));
        thread::spawn(move || hand_on(to, &receiver, one_way));
    }
    Ok(())
}

fn take_in(mut from: TcpStream, chunks: &mpsc::SyncSender<(Instant, Vec<u8>)>) {
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if chunks.send((Instant::now(), buffer[..count].to_vec())).is_err() {
            return;
        }
    }
}

fn hand_on(mut to: TcpStream, chunks: &mpsc::Receiver<(Instant, Vec<u8>)>, one_way: Duration) {
    for (came, chunk) in chunks {
        thread::sleep((came + one_way).saturating_duration_since(Instant::now()));
        if to.write_all(&chunk).is_err() {
            return;
        }
    }
    // The other end may be gone already.
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_back_and_none_before_its_time() {
        let echo = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = echo.local_addr().unwrap().port();
        thread::spawn(move || {
            let (mut stream, _) = echo.accept().unwrap();
            let mut other = stream.try_clone().unwrap();
            io::copy(&mut stream, &mut other).unwrap();
            other.shutdown(Shutdown::Write).unwrap();
        });
        let far = Far::towards(port, Duration::from_millis(20)).unwrap();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, far.port)).unwrap();
        let begun = Instant::now();
        let sent: Vec<u8> = (0..300_000_u32).map(|number| (number % 251) as u8).collect();
        let mut writer = stream.try_clone().unwrap();
        let bytes = sent.clone();
        thread::spawn(move || {
            writer.write_all(&bytes).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut first = [0];
        stream.read_exact(&mut first).unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(40));
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!([&first[..], &rest].concat(), sent);
    }
}
