use proptest::prelude::*;

use super::*;

fn written(seq: u64) -> Written {
    Written { seq, since: Instant::now(), stamp: Stamp(seq), sync: false }
}

fn image(extents: &Extents, len: usize) -> Vec<Option<u8>> {
    let mut image = vec![None; len];
    for (at, bytes) in extents.overlay(0..len as u64) {
        for (i, byte) in bytes.iter().enumerate() {
            let place = &mut image[at as usize + i];
            assert_eq!(*place, None, "extents overlap");
            *place = Some(*byte);
        }
    }
    image
}

#[test]
fn small_writes_in_sequence_become_one_run() {
    let mut extents = Extents::default();
    for i in 0..100 {
        extents.insert(i * 10, Bytes::from(vec![i as u8; 10]), written(i + 1));
    }
    let runs = extents.runs();
    assert_eq!((runs.len(), runs[0].len, runs[0].seq, runs[0].full), (1, 1000, 1, false));
    let run = extents.take(&runs[0]).expect("there");
    assert_eq!((run.offset, run.data.len(), run.written.stamp), (0, 1000, Stamp(100)));
    assert!(extents.is_empty());
}

#[test]
fn large_write_is_kept_without_a_copy() {
    let mut extents = Extents::default();
    let data = Bytes::from(vec![3; KEEP_BYTES_MIN]);
    extents.insert(5, data.clone(), written(1));
    let shape = extents.runs()[0];
    assert_eq!(extents.take(&shape).expect("there").data.as_ptr(), data.as_ptr());
}

#[test]
fn runs_never_exceed_a_request_and_say_when_full() {
    let mut extents = Extents::default();
    for i in 0..20_u64 {
        extents.insert(i << 17, Bytes::from(vec![1; 1 << 17]), written(i + 1));
    }
    let runs = extents.runs();
    let shapes: Vec<_> = runs.iter().map(|r| (r.len, r.full)).collect();
    assert_eq!(shapes, [(1 << 20, true), (1 << 20, true), (1 << 19, false)]);
}

proptest! {
    #[test]
    fn newest_bytes_win(writes in prop::collection::vec((0_usize..400, 1_usize..120), 1..40)) {
        let mut extents = Extents::default();
        let mut model = vec![None; 600];
        for (i, (offset, len)) in writes.iter().enumerate() {
            let byte = i as u8;
            extents.insert(*offset as u64, Bytes::from(vec![byte; *len]), written(i as u64));
            model[*offset..offset + len].fill(Some(byte));
        }
        prop_assert_eq!(&image(&extents, 600), &model);
        prop_assert_eq!(extents.bytes() as usize, model.iter().flatten().count());
        // Taken run by run, the same bytes come out.
        let mut taken = vec![None; 600];
        for shape in extents.runs() {
            let run = extents.take(&shape).expect("a run that was shown");
            prop_assert_eq!(run.data.len(), shape.len);
            for (i, byte) in run.data.iter().enumerate() {
                taken[run.offset as usize + i] = Some(*byte);
            }
        }
        prop_assert_eq!(&taken, &model);
        prop_assert_eq!(extents.bytes(), 0);
    }
}
