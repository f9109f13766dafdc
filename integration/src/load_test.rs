use super::*;
use crate::scratch::Scratch;

fn written(scratch: &Scratch) -> (Model, Report) {
    let load = Load::start(&scratch.path().join("w"), Plan::default()).unwrap();
    load.wait_operations(300, Duration::from_secs(30)).unwrap();
    load.finish().unwrap()
}

#[test]
fn a_sound_file_system_passes() {
    let scratch = Scratch::new("load").unwrap();
    let (model, report) = written(&scratch);
    assert!(report.operations >= 300 && model.files() > 3);
    report.demand(Duration::from_secs(20)).unwrap();
    model.verify().unwrap();
    assert!(model.verify_settled().unwrap() > 0);
}

#[test]
fn one_wrong_byte_is_found() {
    let scratch = Scratch::new("load").unwrap();
    let (model, _) = written(&scratch);
    let path = model.files.iter().find(|(_, k)| k.bytes.len() > 10).unwrap().0;
    let mut bytes = fs::read(path).unwrap();
    bytes[7] ^= 1;
    fs::write(path, bytes).unwrap();
    let error = model.verify().unwrap_err().to_string();
    assert!(error.contains("first difference at 7, 1 bytes differ"), "{error}");
    model.verify_settled().unwrap_err();
}

#[test]
fn a_lost_and_a_resurrected_file_are_found() {
    let scratch = Scratch::new("load").unwrap();
    let (model, _) = written(&scratch);
    let path = model.files.keys().next().unwrap();
    let other = path.with_file_name("back-again");
    fs::rename(path, &other).unwrap();
    let error = model.verify().unwrap_err().to_string();
    assert!(error.contains("2 files are wrong") && error.contains("back-again"), "{error}");
}

#[test]
fn an_error_and_a_pause_fail_the_demand() {
    let late = Report { longest: Duration::from_secs(4), ..Report::default() };
    late.demand(Duration::from_secs(3)).unwrap_err();
    let failed = Report { errors: vec!["EIO".into()], ..Report::default() };
    failed.demand(Duration::from_secs(3)).unwrap_err();
}

#[test]
fn the_writer_reports_errors_of_the_file_system() {
    let scratch = Scratch::new("load").unwrap();
    let dir = scratch.path().join("w");
    let plan = Plan { errors_expected: true, threads: 1, ..Plan::default() };
    let load = Load::start(&dir, plan).unwrap();
    load.wait_operations(20, Duration::from_secs(30)).unwrap();
    fs::remove_dir_all(dir.join("t0")).ok();
    crate::sys::wait_until("an error", Duration::from_secs(10), || {
        let seen = load.shared.report.lock().unwrap().errors.len();
        fs::remove_dir_all(dir.join("t0")).ok();
        Ok(crate::sys::Poll::of(seen > 0, || "none".into()))
    })
    .unwrap();
}
