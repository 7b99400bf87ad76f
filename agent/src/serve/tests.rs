use super::*;
use crate::wire::frame::encode;

async fn ask(requests: &[RequestBody]) -> (Hello, Vec<(u64, Result<Reply, Failure>)>) {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (read, write) = tokio::io::split(theirs);
    let served = tokio::spawn(serve(read, write));
    let (mut answers, mut ask) = tokio::io::split(ours);
    let mut frames = FrameReader::new(&mut answers);
    let hello: Hello = frames.next().await.unwrap().unwrap();
    let mut replies = Vec::new();
    for (id, body) in (1..).zip(requests) {
        let bytes = encode(&Request { id, body: body.clone() }).unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut ask, &bytes).await.unwrap();
        match frames.next::<Message>().await.unwrap().unwrap() {
            Message::Reply { id, result } => replies.push((id, result)),
            Message::Event(event) => panic!("an event nobody asked for: {event:?}"),
        }
    }
    tokio::io::AsyncWriteExt::shutdown(&mut ask).await.unwrap();
    served.await.unwrap().unwrap();
    (hello, replies)
}

#[tokio::test]
async fn the_agent_greets_first_and_answers_with_the_id_it_was_given() {
    let (hello, replies) =
        ask(&[RequestBody::Facts, RequestBody::Survey { steps: Vec::new(), index: None }]).await;
    assert_eq!((hello.oldest, hello.newest), PROTOCOL);
    let (id, Ok(Reply::Facts(facts))) = &replies[0] else { panic!("{replies:?}") };
    assert_eq!((*id, facts.agent_version.as_str()), (1, env!("CARGO_PKG_VERSION")));
    assert!(facts.memory_bytes.value().is_some_and(|bytes| *bytes > 1 << 20));
    assert!(matches!(&replies[1], (2, Ok(Reply::Survey { steps })) if steps.is_empty()));
}

#[tokio::test]
async fn nothing_is_changed_without_the_hold() {
    for body in [
        RequestBody::OfferIndex { index: "{}".into(), signature: String::new(), keys: Vec::new() },
        RequestBody::Missing { blobs: Vec::new() },
        RequestBody::Prune { dry_run: true },
        RequestBody::Share { blobs: Vec::new() },
        RequestBody::Peers { peers: Vec::new() },
        RequestBody::Unshare,
        RequestBody::Undo,
        RequestBody::Depart,
        RequestBody::MintJoin { ttl_secs: 60 },
    ] {
        let (_, replies) = ask(std::slice::from_ref(&body)).await;
        let (_, Err(failure)) = &replies[0] else { panic!("{body:?} was done") };
        assert_eq!(failure.code, "AGENT-022", "{body:?}");
    }
}

/// Every code that the agent can answer with is explained in the docs, once.
#[test]
fn every_code_is_in_the_docs() {
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs");
    let [errors, steps] =
        ["errors.md", "steps.md"].map(|name| fs_err::read_to_string(format!("{docs}/{name}")));
    let manual = errors.unwrap() + &steps.unwrap().replace('`', "");
    let sources = [
        include_str!("error.rs"),
        include_str!("../store/error.rs"),
        include_str!("../store/peer/error.rs"),
        include_str!("../daemon/mod.rs"),
        include_str!("../api/server.rs"),
        include_str!("../accept/mod.rs"),
        include_str!("../journal/mod.rs"),
        include_str!("../run/mod.rs"),
        include_str!("../step/change.rs"),
        include_str!("../audit/error.rs"),
    ];
    let mut seen = std::collections::BTreeSet::new();
    for part in sources.iter().flat_map(|source| source.split("=> \"").skip(1)) {
        let code = part.split('"').next().unwrap();
        if !["AGENT-", "AUDIT-", "JOURNAL-", "RUN-", "STEP-"]
            .iter()
            .any(|start| code.starts_with(start))
        {
            continue;
        }
        assert!(seen.insert(code), "{code} means two things");
        assert_eq!(manual.matches(&format!("| {code} |")).count(), 1, "{code}");
    }
    assert!(seen.len() > 40, "{seen:?}");
}

#[test]
fn sharing_needs_an_index_and_blobs_it_names_and_peers_need_sharing() {
    let folder = tempfile::tempdir().unwrap();
    let session = Session {
        host: SystemHost::new(),
        places: Places {
            share: Folder::at(&folder.path().join("share")),
            audit: Log::at(&folder.path().join("audit")),
            ..Places::system()
        },
        store: Store::at(&folder.path().join("store")),
        hold: Mutex::new(None),
        operator: Mutex::new(String::new()),
        shelf: Mutex::new(None),
        root: true,
    };
    let refused = |body| change(&session, body).unwrap_err().code;
    let share = || RequestBody::Share { blobs: vec![Digest::of(b"never built")] };
    assert_eq!(refused(share()), "AGENT-019");
    let key = kdc_bundles::signing::SigningKey::generate().unwrap();
    let index = crate::store::tests::index_of(&[b"built"], 4096);
    let text = String::from_utf8(index.to_bytes()).unwrap();
    let keys = [key.public().to_text()];
    *lock(&session.shelf) =
        Some(session.store.keep_index(&text, &key.sign(&index), &keys).unwrap());
    assert_eq!(refused(share()), "AGENT-013");
    assert_eq!(refused(RequestBody::Peers { peers: Vec::new() }), "AGENT-060");
    assert!(!folder.path().join("share").exists(), "nothing was written");
}
