//! Reading batches ([`super::batch`] says how they are written).

use std::io::Read as _;

use flate2::read::DeflateDecoder;

use super::{
    batch::{
        self, AmountRow, BatchError,
        BatchError::{Malformed, TooLarge},
        Head, MAX_AMOUNTS, MAX_BODY, MAX_TEXT, MAX_TEXTS, PodRow, Row, bounded, take, varint,
    },
    ranges::Ranges,
};
use crate::meter::record::{Amounts, Marks, Pod, Record, Resource, Subject};

/// Read every record of a batch. `unpacked` is room that is used again.
///
/// # Errors
/// When it is none, or breaks off; records before that were shown.
pub fn read<'b>(
    bytes: &[u8],
    head: &Head,
    unpacked: &'b mut Vec<u8>,
    mut show: impl FnMut(&Row<'_>),
) -> Result<(), BatchError> {
    unpacked.clear();
    let packed = bytes.get(head.body..).ok_or(Malformed("it has no body"))?;
    let mut decoder = DeflateDecoder::new(packed).take(MAX_BODY + 1);
    decoder.read_to_end(unpacked).map_err(|_| Malformed("its body can't be unpacked"))?;
    if unpacked.len() as u64 > MAX_BODY {
        return Err(TooLarge { what: "body", limit: MAX_BODY as usize });
    }
    if decoder.get_ref().total_in() != packed.len() as u64 {
        return Err(Malformed("something stands behind its body"));
    }
    let mut left: &'b [u8] = unpacked;
    let texts = read_texts(&mut left)?;
    let (mut amounts, mut row_marks) = (Vec::new(), Marks::default());
    for seq in head.first..=head.last() {
        let pod = read_pod(&mut left, &texts)?;
        let many = bounded(&mut left, MAX_AMOUNTS)?;
        amounts.clear();
        for _ in 0..many {
            let resource = read_resource(&mut left)?;
            let device = maybe(&mut left, &texts)?;
            amounts.push(AmountRow { resource, device, value: varint(&mut left)? });
        }
        read_marks(&mut left, &mut row_marks)?;
        show(&Row { seq, pod, amounts: &amounts, marks: &row_marks });
    }
    if left.is_empty() { Ok(()) } else { Err(Malformed("something stands behind its records")) }
}

/// All of its records.
///
/// # Errors
/// When it is none.
pub fn decode(bytes: &[u8]) -> Result<Vec<Record>, BatchError> {
    let (head, mut unpacked) = (Head::read(bytes)?, Vec::new());
    let mut records = Vec::with_capacity(head.count as usize);
    read(bytes, &head, &mut unpacked, |row| records.push(owned(&head, row)))?;
    Ok(records)
}

fn owned(head: &Head, row: &Row<'_>) -> Record {
    let text = str::to_owned;
    let subject = row.pod.map_or(Subject::Node, |pod| {
        Subject::Pod(Pod {
            uid: text(pod.uid),
            namespace: text(pod.namespace),
            name: text(pod.name),
            controller: pod.controller.map(text),
            vm: pod.vm.map(text),
        })
    });
    let mut amounts = Amounts::default();
    row.amounts.iter().for_each(|one| amounts.add(one.resource, one.device, one.value));
    Record {
        journal: head.journal,
        seq: row.seq,
        level: head.level,
        from: head.from,
        to: head.to(),
        node: head.node.clone(),
        subject,
        amounts,
        marks: row.marks.clone(),
    }
}

/// The same batch, with those records only; `None` where none is left. Several where numbers in between are left out.
///
/// # Errors
/// When it is none.
pub fn only(bytes: &[u8], numbers: &Ranges) -> Result<Vec<Vec<u8>>, BatchError> {
    let records = decode(bytes)?;
    let mut parts: Vec<Vec<Record>> = Vec::new();
    for record in records.into_iter().filter(|record| numbers.holds(record.seq)) {
        match parts.last_mut() {
            Some(part) if part.last().is_some_and(|last| last.seq + 1 == record.seq) => {
                part.push(record)
            }
            _ => parts.push(vec![record]),
        }
    }
    parts.iter().map(|part| batch::encode(part)).collect()
}

fn read_texts<'a>(left: &mut &'a [u8]) -> Result<Vec<&'a str>, BatchError> {
    let many = bounded(left, MAX_TEXTS)?;
    let mut texts = Vec::with_capacity(many.min(4096));
    for _ in 0..many {
        let length = bounded(left, MAX_TEXT)?;
        texts.push(
            std::str::from_utf8(take(left, length)?).map_err(|_| Malformed("a name is no text"))?,
        );
    }
    Ok(texts)
}

fn read_pod<'a>(left: &mut &[u8], texts: &[&'a str]) -> Result<Option<PodRow<'a>>, BatchError> {
    match varint(left)? {
        0 => Ok(None),
        1 => Ok(Some(PodRow {
            uid: text(left, texts)?,
            namespace: text(left, texts)?,
            name: text(left, texts)?,
            controller: maybe(left, texts)?,
            vm: maybe(left, texts)?,
        })),
        _ => Err(Malformed("no such subject")),
    }
}

fn read_marks(left: &mut &[u8], marks: &mut Marks) -> Result<(), BatchError> {
    *marks = Marks::default();
    match varint(left)? {
        0 => return Ok(()),
        1 => {}
        _ => return Err(Malformed("no such marks")),
    }
    marks.gap_seconds = varint(left)?;
    marks.resets = varint(left)?;
    marks.clock_steps = varint(left)?;
    marks.started = varint(left)?;
    marks.ended = varint(left)?;
    for _ in 0..bounded(left, Resource::ALL.len())? {
        let resource = read_resource(left)?;
        marks.miss(resource, varint(left)?);
    }
    Ok(())
}

fn read_resource(left: &mut &[u8]) -> Result<Resource, BatchError> {
    let place = usize::try_from(varint(left)?).unwrap_or(usize::MAX);
    Resource::ALL.get(place).copied().ok_or(Malformed("no such resource"))
}

fn text<'a>(left: &mut &[u8], texts: &[&'a str]) -> Result<&'a str, BatchError> {
    let place = usize::try_from(varint(left)?).unwrap_or(usize::MAX);
    texts.get(place).copied().ok_or(Malformed("no such name"))
}

fn maybe<'a>(left: &mut &[u8], texts: &[&'a str]) -> Result<Option<&'a str>, BatchError> {
    let place = usize::try_from(varint(left)?).unwrap_or(usize::MAX);
    if place == 0 {
        return Ok(None);
    }
    texts.get(place - 1).copied().map(Some).ok_or(Malformed("no such name"))
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
