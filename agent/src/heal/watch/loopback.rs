//! One question over HTTP to a program on this node.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// Longest wait for all of an answer, and for a part of it.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_secs(2);

/// Longest answer; etcd's metrics have a quarter of a megabyte.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Ask for a page. Whatever its status is: the body is what counts.
///
/// # Errors
/// Why there is no answer, in words.
pub(super) fn ask(address: SocketAddr, path: &str) -> Result<String, String> {
    if !address.ip().is_loopback() {
        return Err(format!("{address} is not on this node"));
    }
    let said = |cause: std::io::Error| format!("{address} gives no answer: {cause}");
    let mut stream = TcpStream::connect_timeout(&address, PAUSE).map_err(said)?;
    let patient = stream.set_read_timeout(Some(PAUSE)).and(stream.set_write_timeout(Some(PAUSE)));
    patient.map_err(said)?;
    // 1.0: the answer comes in one piece and ends with the connection.
    let request = format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(said)?;
    let (begun, mut answer, mut buffer) = (Instant::now(), Vec::new(), [0; 16 * 1024]);
    loop {
        match stream.read(&mut buffer).map_err(said)? {
            0 => break,
            read => answer.extend_from_slice(&buffer[..read]),
        }
        if answer.len() > MAX_BYTES {
            return Err(format!("{address} answers with more than {MAX_BYTES} bytes"));
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("{address} takes longer than {} seconds", PATIENCE.as_secs()));
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.") => Ok(body.to_owned()),
        _ => Err(format!("{address} does not speak HTTP")),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A server that gives that answer to each path, until nobody asks any more.
    pub(in crate::heal::watch) fn serve(answers: Vec<(&'static str, String)>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 1024];
                let length = stream.read(&mut request).unwrap();
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let path = request.split(' ').nth(1).unwrap_or_default();
                let answer = answers.iter().find(|(wanted, _)| *wanted == path);
                let answer = answer.map_or("", |(_, answer)| answer);
                // Whoever asked may have gone.
                let _sent = stream.write_all(answer.as_bytes());
            }
        });
        address
    }

    #[test]
    fn an_answer_is_bounded_and_must_be_http_of_this_node() {
        let good = "HTTP/1.0 503 no\r\nx: y\r\n\r\nbody\r\n\r\nmore".to_owned();
        let long = format!("HTTP/1.0 200 ok\r\n\r\n{}", "x".repeat(MAX_BYTES + 1));
        let address =
            serve(vec![("/good", good), ("/long", long), ("/ssh", "SSH-2.0-x\r\n".to_owned())]);
        assert_eq!(ask(address, "/good").unwrap(), "body\r\n\r\nmore");
        assert!(ask(address, "/long").unwrap_err().contains("more than"));
        assert!(ask(address, "/ssh").unwrap_err().contains("does not speak HTTP"));
        let away = SocketAddr::from(([192, 0, 2, 1], 80));
        assert!(ask(away, "/").unwrap_err().contains("not on this node"));
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(ask(closed, "/").unwrap_err().contains("gives no answer"));
    }
}
