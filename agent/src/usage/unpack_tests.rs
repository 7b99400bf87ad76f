use proptest::prelude::*;

use super::*;
use crate::{
    meter::record::Level,
    usage::{
        batch::{MAX_RECORDS, encode, pack},
        samples,
    },
};

#[test]
fn a_batch_comes_back_as_it_went() {
    let mut records = samples::hour(3, 7 * 3600, 1);
    records[1].marks = Marks { gap_seconds: 30, started: 1, ..Marks::default() };
    records[2].marks.miss(Resource::VolumeStorage, 15);
    if let Subject::Pod(pod) = &mut records[1].subject {
        (pod.controller, pod.vm) = (Some("Deployment/web".to_owned()), Some("vm-1".to_owned()));
    }
    records[2].amounts.add(Resource::GpuUsed, Some("GPU-1"), u64::MAX);
    let bytes = encode(&records).unwrap();
    assert_eq!(decode(&bytes).unwrap(), records);
    let head = Head::read(&bytes).unwrap();
    assert_eq!((head.first, head.last(), head.from, head.to()), (1, 4, 25_200, 28_800));
    assert!(head.may_have("acme-shop") && !head.may_have("nobody"));
}

#[test]
fn what_does_not_belong_together_is_no_batch() {
    let good = samples::hour(3, 3600, 1);
    let change = |change: &dyn Fn(&mut Record)| {
        let mut records = good.clone();
        change(&mut records[2]);
        encode(&records).unwrap_err().to_string()
    };
    assert!(change(&|one| one.seq = 9).contains("hole"));
    assert!(change(&|one| one.from = 0).contains("another time"));
    assert!(change(&|one| one.node = "x".into()).contains("another journal"));
    assert!(change(&|one| one.level = Level::Day).contains("another journal"));
    let long = |one: &mut Record| {
        one.subject = Subject::Pod(Pod { name: "x".repeat(MAX_TEXT + 1), ..Pod::default() });
    };
    assert!(change(&long).contains("over the limit"));
    assert_eq!(encode(&[]), Err(Malformed("it has no records")));
    let many = vec![good[0].clone(); MAX_RECORDS + 1];
    assert!(matches!(encode(&many), Err(TooLarge { .. })));
}

#[test]
fn only_some_of_its_records_are_as_many_batches_as_there_are_runs() {
    let bytes = encode(&samples::hour(5, 3600, 10)).unwrap();
    let parts = only(&bytes, &Ranges::from(vec![(1, 11), (13, 13), (15, 99)])).unwrap();
    let numbers: Vec<_> = parts
        .iter()
        .map(|part| Head::read(part).map(|head| (head.first, head.last())).unwrap())
        .collect();
    assert_eq!(numbers, [(10, 11), (13, 13), (15, 15)]);
    assert!(only(&bytes, &Ranges::default()).unwrap().is_empty());
}

#[test]
fn a_bomb_is_refused_before_it_fills_the_memory() {
    let good = encode(&samples::hour(2, 3600, 1)).unwrap();
    let head = Head::read(&good).unwrap();
    let mut bomb = good[..head.body].to_vec();
    bomb.extend_from_slice(&pack(&vec![0; MAX_BODY as usize + 10]));
    assert!(bomb.len() < 100_000);
    assert!(matches!(decode(&bomb), Err(TooLarge { .. })));
}

#[test]
fn every_cut_and_whatever_stands_behind_is_refused() {
    let good = encode(&samples::hour(2, 3600, 1)).unwrap();
    for length in 0..good.len() {
        assert!(decode(&good[..length]).is_err(), "{length} bytes");
    }
    let mut more = good.clone();
    more.push(0);
    assert!(decode(&more).is_err());
}

proptest! {
    #[test]
    fn whatever_bytes_come_it_is_a_batch_or_an_error(mut bytes in prop::collection::vec(any::<u8>(), 0..400), flips in prop::collection::vec((any::<u16>(), any::<u8>()), 0..4)) {
        let _ = decode(&bytes);
        let mut good = encode(&samples::hour(2, 3600, 1)).unwrap();
        for (place, value) in flips {
            let place = usize::from(place) % good.len();
            good[place] = value;
        }
        if let Ok(records) = decode(&good) {
            prop_assert_eq!(decode(&encode(&records).unwrap()).unwrap(), records);
        }
        bytes.splice(0..0, good);
        let _ = decode(&bytes);
    }
}
