//! Writes the good inputs that fuzzing of audit logs starts from, and the public key they are signed with. Run again when
//! the format changes: `cargo run -p kdc-fuzz --bin audit_seeds`.

use std::error::Error;

use kdc_agent::audit::{
    Entry, Log, Moment, Who, export,
    key::{NamedKey, render_keys},
};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let log = Log::at(&folder.path().join("audit"));
    for number in 1..=3 {
        let (outcome, detail) = ("done".to_owned(), String::new());
        let moment = Moment { at_unix_ms: number, boot: "b".to_owned() };
        log.append(&Entry::HealEnded { number, outcome, detail }, &Who::part("heal"), &moment)?;
    }
    let corpus = kdc_fuzz::corpus();
    let place = corpus.join("audit");
    fs_err::create_dir_all(&place)?;
    let file = export::of_log(&log, "w1", 9)?;
    let key = export::parse(&file)?[0].title.key.parse()?;
    let keys = [NamedKey { node: "w1".to_owned(), key }];
    fs_err::write(corpus.with_file_name("audit-keys.pub"), render_keys(&keys))?;
    fs_err::write(place.join("seed-keys"), render_keys(&keys))?;
    let head = log.head()?.ok_or("no head")?;
    fs_err::write(place.join("seed-head"), head.to_text())?;
    fs_err::write(place.join("seed-heads"), serde_json::json!({ "w1": head }).to_string())?;
    // Lines without their digests.
    let lines = String::from_utf8(log.read()?.0)?;
    let bare =
        lines.lines().filter_map(|line| Some(line.rsplit_once(",\"sum\"")?.0.to_owned() + "}\n"));
    fs_err::write(place.join("seed-lines"), bare.collect::<String>())?;
    fs_err::write(place.join("seed"), file)?;
    Ok(())
}
