//! An agent that speaks the wire and does nothing: for tests of the way to a node.

use std::io::{self, Read, Write};

use kdc_agent::wire::{
    Event, EventBody, Failure, Hello, Message, Outcome, PROTOCOL, Received, Reply, Request,
    RequestBody,
    frame::{Decoder, encode},
    piece::{PIECE_HEADER_BYTES, PieceHeader},
};

fn main() -> anyhow::Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("serve") => serve(),
        Some("receive") => receive(),
        _ => anyhow::bail!("serve --stdio, or receive --index DIGEST"),
    }
}

fn say<T: serde::Serialize>(message: &T) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(&encode(message)?)?;
    Ok(out.flush()?)
}

fn serve() -> anyhow::Result<()> {
    say(&Hello {
        oldest: PROTOCOL.0,
        newest: PROTOCOL.1,
        agent_version: "fake".to_owned(),
        root: nix::unistd::geteuid().is_root(),
    })?;
    let (mut decoder, mut bytes) = (Decoder::default(), [0; 4096]);
    loop {
        while let Some(request) = decoder.take::<Request>()? {
            answer(request)?;
        }
        match io::stdin().read(&mut bytes)? {
            0 => return Ok(()),
            count => decoder.feed(&bytes[..count]),
        }
    }
}

fn answer(request: Request) -> anyhow::Result<()> {
    let Request { id, body } = request;
    let result = match body {
        RequestBody::Runs => Ok(Reply::Runs { runs: Vec::new() }),
        // Follows nothing, for ever.
        RequestBody::Attach { run, .. } if run == "endless" => return Ok(()),
        RequestBody::Attach { run, after } => {
            for seq in after + 1..=3 {
                let body = EventBody::Done { step: format!("s{seq}") };
                say(&Message::Event(Event { run: run.clone(), seq, at_unix_ms: 0, body }))?;
            }
            Ok(Reply::Ended { outcome: Outcome::Finished { changed: 3, found: 0 } })
        }
        _ => Err(Failure {
            code: "AGENT-999".to_owned(),
            message: "this agent is a fake".to_owned(),
            hint: Some("use a real one".to_owned()),
        }),
    };
    say(&Message::Reply { id, result })
}

/// Takes pieces and counts them; one that starts with `BAD` is refused at once.
fn receive() -> anyhow::Result<()> {
    let (mut input, mut header) = (io::stdin().lock(), [0; PIECE_HEADER_BYTES]);
    let mut received = Received { pieces: 0, bytes: 0, failure: None };
    let mut piece = Vec::new();
    let mut sink = std::env::var_os("KDC_FAKE_SINK").map(fs_err::File::create).transpose()?;
    loop {
        input.read_exact(&mut header)?;
        let header = PieceHeader::from_bytes(header);
        if header == PieceHeader::END {
            break;
        }
        piece.resize(header.length as usize, 0);
        input.read_exact(&mut piece)?;
        if piece.starts_with(b"BAD") {
            received.failure = Some(Failure {
                code: "AGENT-998".to_owned(),
                message: format!("piece {} is bad", header.piece),
                hint: None,
            });
            break;
        }
        if let Some(sink) = &mut sink {
            sink.write_all(&piece)?;
        }
        received.pieces += 1;
        received.bytes += u64::from(header.length);
    }
    say(&received)
}
