//! Samples as payloads of frames: each says what is new against the one before it in the same file.
//!
//! A subject's names are written once a file, and a counter as what it grew by, so that a sample of 250 pods that do little
//! has some kilobytes.

use std::collections::BTreeMap;

use super::codec::{Nonsense, Reader, Writer};
use crate::meter::{
    record::{Pod, Resource, Subject},
    sample::{Counter, Height, Reading, Sample},
};

/// What a place in the last readings is called: subject, kind, resource, device, source.
type Place = (usize, bool, Resource, usize, usize);

/// What was said so far in this file; writer and reader keep the same.
#[derive(Debug, Default)]
pub(super) struct Said {
    texts: Vec<String>,
    known: BTreeMap<String, usize>,
    subjects: Vec<Subject>,
    places: BTreeMap<Subject, usize>,
    values: BTreeMap<Place, u64>,
    unix_ms: i64,
    boot_ms: u64,
}

impl Said {
    /// The payload of the next sample.
    pub(super) fn encode(&mut self, sample: &Sample) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.signed(sample.unix_ms.wrapping_sub(self.unix_ms));
        writer.signed(sample.boot_ms.wrapping_sub(self.boot_ms) as i64);
        (self.unix_ms, self.boot_ms) = (sample.unix_ms, sample.boot_ms);
        writer.0.extend_from_slice(&sample.boot);
        writer.number(sample.every_ms);
        self.put_text(&mut writer, &sample.node);
        writer.byte(u8::from(sample.whole));
        writer.number(sample.readings.len() as u64);
        for reading in &sample.readings {
            self.put_reading(&mut writer, reading);
        }
        writer.0
    }

    fn put_reading(&mut self, writer: &mut Writer, reading: &Reading) {
        let subject = self.put_subject(writer, &reading.subject);
        writer.number(reading.life);
        writer.number(reading.begun_boot_ms.map_or(0, |begun| begun.saturating_add(1)));
        writer.number(reading.counters.len() as u64);
        for Counter { resource, device, source, value } in &reading.counters {
            writer.resource(*resource);
            let device = self.put_device(writer, device.as_deref());
            let source = self.put_text(writer, source);
            self.put_value(writer, (subject, false, *resource, device, source), *value);
        }
        writer.number(reading.levels.len() as u64);
        for Height { resource, device, value } in &reading.levels {
            writer.resource(*resource);
            let device = self.put_device(writer, device.as_deref());
            self.put_value(writer, (subject, true, *resource, device, 0), *value);
        }
        writer.number(reading.missing.len() as u64);
        reading.missing.iter().for_each(|resource| writer.resource(*resource));
    }

    fn put_value(&mut self, writer: &mut Writer, place: Place, value: u64) {
        let before = self.values.insert(place, value).unwrap_or(0);
        writer.signed(value.wrapping_sub(before) as i64);
    }

    fn put_device(&mut self, writer: &mut Writer, device: Option<&str>) -> usize {
        match device {
            None => {
                writer.number(0);
                0
            }
            Some(device) => {
                writer.number(1);
                1 + self.put_text(writer, device)
            }
        }
    }

    /// A text by its number, and the text itself where it is a new one.
    fn put_text(&mut self, writer: &mut Writer, text: &str) -> usize {
        if let Some(number) = self.known.get(text) {
            writer.number(*number as u64);
            return *number;
        }
        let number = self.texts.len();
        writer.number(number as u64);
        writer.text(text);
        self.texts.push(text.to_owned());
        self.known.insert(text.to_owned(), number);
        number
    }

    fn put_subject(&mut self, writer: &mut Writer, subject: &Subject) -> usize {
        if let Some(number) = self.places.get(subject) {
            writer.number(*number as u64);
            return *number;
        }
        let number = self.subjects.len();
        writer.number(number as u64);
        match subject {
            Subject::Node => writer.byte(0),
            Subject::Pod(pod) => {
                writer.byte(1);
                [&pod.uid, &pod.namespace, &pod.name]
                    .into_iter()
                    .for_each(|text| writer.text(text));
                writer.maybe(pod.controller.as_deref());
                writer.maybe(pod.vm.as_deref());
            }
        }
        self.subjects.push(subject.clone());
        self.places.insert(subject.clone(), number);
        number
    }

    /// The sample of the next payload.
    pub(super) fn decode(&mut self, payload: &[u8]) -> Result<Sample, Nonsense> {
        let mut reader = Reader(payload);
        self.unix_ms = self.unix_ms.wrapping_add(reader.signed()?);
        self.boot_ms = self.boot_ms.wrapping_add(reader.signed()? as u64);
        let mut boot = [0; 16];
        boot.copy_from_slice(reader.take(16)?);
        let every_ms = reader.number()?;
        let node = self.take_text(&mut reader)?;
        let node = self.text(node);
        let whole = reader.byte()? == 1;
        let mut readings = Vec::new();
        for _ in 0..reader.count()? {
            readings.push(self.take_reading(&mut reader)?);
        }
        reader.end()?;
        let (unix_ms, boot_ms) = (self.unix_ms, self.boot_ms);
        Ok(Sample { unix_ms, boot_ms, boot, every_ms, node, whole, readings })
    }

    fn take_reading(&mut self, reader: &mut Reader<'_>) -> Result<Reading, Nonsense> {
        let number = self.take_subject(reader)?;
        let subject = self.subjects.get(number).ok_or(Nonsense("an unknown subject"))?.clone();
        let life = reader.number()?;
        let begun_boot_ms = reader.number()?.checked_sub(1);
        let mut counters = Vec::new();
        for _ in 0..reader.count()? {
            let resource = reader.resource()?;
            let (device, name) = self.take_device(reader)?;
            let source = self.take_text(reader)?;
            let value = self.take_value(reader, (number, false, resource, device, source))?;
            counters.push(Counter { resource, device: name, source: self.text(source), value });
        }
        let mut levels = Vec::new();
        for _ in 0..reader.count()? {
            let resource = reader.resource()?;
            let (device, name) = self.take_device(reader)?;
            let value = self.take_value(reader, (number, true, resource, device, 0))?;
            levels.push(Height { resource, device: name, value });
        }
        let mut missing = Vec::new();
        for _ in 0..reader.count()? {
            missing.push(reader.resource()?);
        }
        Ok(Reading { subject, life, begun_boot_ms, counters, levels, missing })
    }

    fn take_value(&mut self, reader: &mut Reader<'_>, place: Place) -> Result<u64, Nonsense> {
        let before = self.values.get(&place).copied().unwrap_or(0);
        let value = before.wrapping_add(reader.signed()? as u64);
        self.values.insert(place, value);
        Ok(value)
    }

    fn take_device(
        &mut self,
        reader: &mut Reader<'_>,
    ) -> Result<(usize, Option<String>), Nonsense> {
        if reader.number()? == 0 {
            return Ok((0, None));
        }
        let number = self.take_text(reader)?;
        Ok((1 + number, Some(self.text(number))))
    }

    fn take_text(&mut self, reader: &mut Reader<'_>) -> Result<usize, Nonsense> {
        let number = usize::try_from(reader.number()?).map_err(|_| Nonsense("an unknown text"))?;
        if number > self.texts.len() {
            return Err(Nonsense("an unknown text"));
        }
        if number == self.texts.len() {
            self.texts.push(reader.text()?.to_owned());
        }
        Ok(number)
    }

    fn text(&self, number: usize) -> String {
        self.texts.get(number).cloned().unwrap_or_default()
    }

    fn take_subject(&mut self, reader: &mut Reader<'_>) -> Result<usize, Nonsense> {
        let number =
            usize::try_from(reader.number()?).map_err(|_| Nonsense("an unknown subject"))?;
        if number == self.subjects.len() {
            let subject = match reader.byte()? {
                0 => Subject::Node,
                1 => Subject::Pod(Pod {
                    uid: reader.text()?.to_owned(),
                    namespace: reader.text()?.to_owned(),
                    name: reader.text()?.to_owned(),
                    controller: reader.maybe()?.map(str::to_owned),
                    vm: reader.maybe()?.map(str::to_owned),
                }),
                _ => return Err(Nonsense("a subject that this agent doesn't know")),
            };
            self.subjects.push(subject);
        }
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_sample() -> impl Strategy<Value = Sample> {
        let counter = (0..13_usize, prop::option::of("[a-c]{0,2}"), "[a-c]{0,2}", any::<u64>());
        let height = (0..13_usize, prop::option::of("[a-c]{0,2}"), any::<u64>());
        let subject = prop_oneof![
            Just(Subject::Node),
            ("[a-c]", prop::option::of("[a-c]")).prop_map(|(uid, vm)| {
                Subject::Pod(Pod { name: uid.clone(), uid, vm, ..Pod::default() })
            })
        ];
        let reading = (
            subject,
            any::<u64>(),
            prop::option::of(0..u64::MAX - 1),
            prop::collection::vec(counter, 0..4),
            prop::collection::vec(height, 0..4),
            prop::collection::vec(0..13_usize, 0..2),
        )
            .prop_map(|(subject, life, begun_boot_ms, counters, levels, missing)| {
                let of = |place: usize| Resource::ALL[place];
                Reading {
                    subject,
                    life,
                    begun_boot_ms,
                    counters: counters
                        .into_iter()
                        .map(|(place, device, source, value)| Counter {
                            resource: of(place),
                            device,
                            source,
                            value,
                        })
                        .collect(),
                    levels: levels
                        .into_iter()
                        .map(|(place, device, value)| Height { resource: of(place), device, value })
                        .collect(),
                    missing: missing.into_iter().map(of).collect(),
                }
            });
        let readings = prop::collection::vec(reading, 0..4);
        (any::<i64>(), any::<u64>(), any::<[u8; 16]>(), "[ab]", any::<bool>(), readings).prop_map(
            |(unix_ms, boot_ms, boot, node, whole, readings)| Sample {
                unix_ms,
                boot_ms,
                boot,
                every_ms: 15_000,
                node,
                whole,
                readings,
            },
        )
    }

    proptest! {
        #[test]
        fn samples_come_back_as_they_were(samples in prop::collection::vec(any_sample(), 0..6)) {
            let (mut here, mut there) = (Said::default(), Said::default());
            for sample in samples {
                let payload = here.encode(&sample);
                prop_assert_eq!(there.decode(&payload).unwrap(), sample);
            }
        }

        #[test]
        fn nonsense_is_refused_without_a_panic(payloads: Vec<Vec<u8>>) {
            let mut said = Said::default();
            for payload in payloads {
                let _ = said.decode(&payload);
            }
        }
    }
}
