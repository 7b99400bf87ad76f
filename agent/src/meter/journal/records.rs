//! Records of one level and stretch as the payload of a frame.

use std::io;

use super::{
    codec::{Nonsense, Reader, Writer},
    frame,
};
use crate::meter::record::{Amounts, JournalId, Level, Marks, Pod, Record, Subject};

/// The first byte: a reader that finds another doesn't know what follows.
const FORM: u8 = 1;

const NODE: u8 = 0;
/// A pod whose UID is a UUID as usual, kept in its 16 bytes.
const POD: u8 = 1;
/// A pod with another UID.
const STATIC_POD: u8 = 2;

/// Records that belong together: of one level, with numbers that follow each other.
///
/// # Errors
/// Where packing fails, which it doesn't in memory.
pub(super) fn encode(records: &[Record]) -> io::Result<Vec<u8>> {
    let mut writer = Writer::default();
    let (first, node) = records.first().map_or((0, ""), |first| (first.seq, first.node.as_str()));
    writer.byte(FORM);
    writer.number(first);
    writer.text(node);
    writer.number(records.len() as u64);
    let mut before = 0;
    for record in records {
        writer.signed(record.from.wrapping_sub(before));
        before = record.from;
        subject(&mut writer, &record.subject);
        writer.number(record.amounts.len() as u64);
        for amount in &record.amounts {
            writer.resource(amount.resource);
            writer.maybe(amount.device.as_deref());
            writer.number(amount.value);
        }
        marks(&mut writer, &record.marks);
    }
    frame::pack(&writer.0)
}

fn subject(writer: &mut Writer, subject: &Subject) {
    let Subject::Pod(pod) = subject else { return writer.byte(NODE) };
    match uuid(&pod.uid) {
        Some(bytes) => {
            writer.byte(POD);
            writer.0.extend_from_slice(&bytes);
        }
        None => {
            writer.byte(STATIC_POD);
            writer.text(&pod.uid);
        }
    }
    writer.text(&pod.namespace);
    writer.text(&pod.name);
    writer.maybe(pod.controller.as_deref());
    writer.maybe(pod.vm.as_deref());
}

fn uuid(uid: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    hex::decode_to_slice(uid.replace('-', ""), &mut bytes).ok()?;
    (hyphened(&bytes) == uid).then_some(bytes)
}

fn hyphened(bytes: &[u8]) -> String {
    let digits = hex::encode(bytes);
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| digits.get(part).unwrap_or(""));
    parts.join("-")
}

fn marks(writer: &mut Writer, marks: &Marks) {
    let counts = [marks.gap_seconds, marks.resets, marks.clock_steps, marks.started, marks.ended];
    let mut which = 0;
    for (place, count) in counts.iter().enumerate() {
        which |= u8::from(*count > 0) << place;
    }
    which |= u8::from(!marks.missing.is_empty()) << counts.len();
    writer.byte(which);
    counts.iter().filter(|count| **count > 0).for_each(|count| writer.number(*count));
    if !marks.missing.is_empty() {
        writer.number(marks.missing.len() as u64);
        for missing in &marks.missing {
            writer.resource(missing.resource);
            writer.number(missing.seconds);
        }
    }
}

/// The records of a payload.
///
/// # Errors
/// Where it is none.
pub(super) fn decode(
    payload: &[u8],
    journal: JournalId,
    level: Level,
) -> Result<Vec<Record>, Nonsense> {
    let bytes = frame::unpack(payload).map_err(|_| Nonsense("it can't be unpacked"))?;
    let mut reader = Reader(&bytes);
    if reader.byte()? != FORM {
        return Err(Nonsense("it is of another version of kdc"));
    }
    let first = reader.number()?;
    let node = reader.text()?;
    let count = reader.count()?;
    let (mut records, mut from) = (Vec::new(), 0_i64);
    for number in 0..count as u64 {
        from = from.wrapping_add(reader.signed()?);
        if level.start_of(from) != from {
            return Err(Nonsense("a record doesn't begin where its level does"));
        }
        records.push(Record {
            journal,
            seq: first.checked_add(number).ok_or(Nonsense("a number is too large"))?,
            level,
            from,
            to: from.checked_add(level.seconds()).ok_or(Nonsense("a time is too large"))?,
            node: node.to_owned(),
            subject: read_subject(&mut reader)?,
            amounts: read_amounts(&mut reader)?,
            marks: read_marks(&mut reader)?,
        });
    }
    reader.end()?;
    Ok(records)
}

fn read_subject(reader: &mut Reader<'_>) -> Result<Subject, Nonsense> {
    let uid = match reader.byte()? {
        NODE => return Ok(Subject::Node),
        POD => hyphened(reader.take(16)?),
        STATIC_POD => reader.text()?.to_owned(),
        _ => return Err(Nonsense("a subject that this agent doesn't know")),
    };
    Ok(Subject::Pod(Pod {
        uid,
        namespace: reader.text()?.to_owned(),
        name: reader.text()?.to_owned(),
        controller: reader.maybe()?.map(str::to_owned),
        vm: reader.maybe()?.map(str::to_owned),
    }))
}

fn read_amounts(reader: &mut Reader<'_>) -> Result<Amounts, Nonsense> {
    let mut amounts = Amounts::default();
    for _ in 0..reader.count()? {
        let (resource, device) = (reader.resource()?, reader.maybe()?);
        amounts.add(resource, device, reader.number()?);
    }
    Ok(amounts)
}

fn read_marks(reader: &mut Reader<'_>) -> Result<Marks, Nonsense> {
    let which = reader.byte()?;
    let mut count = |bit: u8| if which & (1 << bit) == 0 { Ok(0) } else { reader.number() };
    let mut marks = Marks {
        gap_seconds: count(0)?,
        resets: count(1)?,
        clock_steps: count(2)?,
        started: count(3)?,
        ended: count(4)?,
        missing: Vec::new(),
    };
    if which >> 6 != 0 {
        return Err(Nonsense("a mark that this agent doesn't know"));
    }
    if which & (1 << 5) != 0 {
        for _ in 0..reader.count()? {
            let resource = reader.resource()?;
            marks.miss(resource, reader.number()?);
        }
    }
    Ok(marks)
}

#[cfg(test)]
pub(in crate::meter) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::meter::record::Resource;

    fn any_amounts() -> impl Strategy<Value = Amounts> {
        let one = (0..13_usize, prop::option::of("[a-z]{0,5}"), any::<u64>());
        prop::collection::vec(one, 0..6).prop_map(|all| {
            let mut amounts = Amounts::default();
            for (place, device, value) in all {
                amounts.add(Resource::ALL[place], device.as_deref(), value);
            }
            amounts
        })
    }

    fn any_subject() -> impl Strategy<Value = Subject> {
        let uid =
            prop_oneof![any::<[u8; 16]>().prop_map(|bytes| hyphened(&bytes)), "[a-f0-9-]{0,40}"];
        let pod = (uid, "[a-z]{0,9}", "[a-z]{0,9}", prop::option::of(".*"), prop::option::of(".*"))
            .prop_map(|(uid, namespace, name, controller, vm)| {
                Subject::Pod(Pod { uid, namespace, name, controller, vm })
            });
        prop_oneof![Just(Subject::Node), pod]
    }

    pub(in crate::meter) fn any_records() -> impl Strategy<Value = Vec<Record>> {
        let one = (any_subject(), any_amounts(), 0..50_000_000_i64, any::<[u64; 5]>(), 0..9_u64);
        (prop::collection::vec(one, 1..8), 1..u64::MAX / 2).prop_map(|(all, first)| {
            let each = all.into_iter().zip(first..);
            each.map(|((subject, amounts, minute, marks, missing), seq)| {
                let [gap_seconds, resets, clock_steps, started, ended] = marks;
                let mut marks =
                    Marks { gap_seconds, resets, clock_steps, started, ended, ..Marks::default() };
                marks.miss(Resource::Memory, missing);
                Record {
                    journal: JournalId::from_bytes([1; 16]),
                    seq,
                    level: Level::Minute,
                    from: minute * 60,
                    to: minute * 60 + 60,
                    node: "n".to_owned(),
                    subject,
                    amounts,
                    marks,
                }
            })
            .collect()
        })
    }

    proptest! {
        #[test]
        fn records_come_back_as_they_were(records in any_records()) {
            let payload = encode(&records).unwrap();
            let id = JournalId::from_bytes([1; 16]);
            prop_assert_eq!(decode(&payload, id, Level::Minute).unwrap(), records);
        }

        #[test]
        fn nonsense_is_refused_without_a_panic(bytes: Vec<u8>) {
            let packed = frame::pack(&bytes).unwrap();
            let _ = decode(&packed, JournalId::from_bytes([0; 16]), Level::Hour);
            let _ = decode(&bytes, JournalId::from_bytes([0; 16]), Level::Hour);
        }
    }

    #[test]
    fn a_pod_of_an_hour_takes_few_bytes() {
        let one = |number: u64| {
            let mut amounts = Amounts::default();
            for (place, resource) in Resource::ALL[..8].iter().enumerate() {
                amounts.add(*resource, None, number * 7_919 * 10_u64.pow(place as u32 + 2));
            }
            let pod = Pod {
                uid: format!(
                    "{:08x}-1111-4222-8333-{:012x}",
                    number * 2_654_435_761 % 0xffff_ffff,
                    number * 97_777_777
                ),
                namespace: format!("project-{}", number % 9),
                name: format!("web-{number}-abcde"),
                controller: Some(format!("Deployment/web-{number}")),
                vm: None,
            };
            Record {
                journal: JournalId::from_bytes([1; 16]),
                seq: number,
                level: Level::Hour,
                from: 0,
                to: 3600,
                node: "n".to_owned(),
                subject: Subject::Pod(pod),
                amounts,
                marks: Marks::default(),
            }
        };
        let records: Vec<Record> = (1..=250).map(one).collect();
        let bytes = encode(&records).unwrap().len();
        println!("{} bytes a record", bytes / 250);
        assert!(bytes / 250 < 90, "{} bytes a record", bytes / 250);
    }
}
