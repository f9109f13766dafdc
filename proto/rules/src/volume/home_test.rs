use super::*;
use crate::plant::without;
use crate::testing::gfid;

const M1: SessionId = SessionId(1);
const M2: SessionId = SessionId(2);

fn home() -> Home {
    Home::found(gfid(4), BTreeSet::new(), true, 100)
}

/// A table of two sets; the slot goes to set 1.
fn moved(slot: SlotId) -> (Vec<SetId>, Vec<SetId>) {
    let before = vec![SetId(0); usize::from(proto::map::SLOTS)];
    let mut after = before.clone();
    after[usize::from(slot.0)] = SetId(1);
    (before, after)
}

fn sets(slots: &BTreeSet<SlotId>, table: &[SetId]) -> BTreeSet<SetId> {
    slots.iter().map(|s| table[usize::from(s.0)]).collect()
}

/// Trap 49: a slot moves from T to U; a home that listed T would lose its names.
#[test]
fn trap_49_names_are_asked_where_their_slots_are_now() {
    let mut home = home();
    home.record(M1, &[3].into(), false).unwrap();
    let slot = slot_of_bucket(gfid(4), 3);
    let (before, after) = moved(slot);
    let naive = sets(&home.places().unwrap(), &before);
    let asked = sets(&home.places().unwrap(), &after);
    assert_eq!(asked, [SetId(1)].into());
    assert_ne!(asked, naive, "what a list of sets, made at the recording, would say");
    // The same for the times of a part that somebody holds, and after a restart of the home.
    assert_eq!(home.stat().1, [slot].into());
    let again = Home::found(gfid(4), [3].into(), true, 100);
    assert_eq!(again.places(), Ok([slot].into()));
}

/// Trap 64: M1 makes a name in d on another set; M2's stat at the home shows the old time.
fn stat_is_new() -> Result<(), String> {
    let mut home = home();
    let commands = home.record(M1, &[3].into(), true).map_err(|e| format!("{e:?}"))?;
    // The part's lead executes M1's create: its time is 200 now.
    let part_stamp = 200;
    if home.may_share() {
        return Err(format!("the old time is cached under a shared lease, after {commands:?}"));
    }
    let (stamp, ask) = home.stat();
    let seen = if ask.contains(&slot_of_bucket(gfid(4), 3)) { part_stamp } else { stamp };
    (seen == part_stamp).then_some(()).ok_or_else(|| format!("stat shows {seen}"))
}

#[test]
fn trap_64_stat_adds_the_times_of_parts_that_are_held() {
    stat_is_new().unwrap();
    without(Plant::NoRegistration, stat_is_new).expect_err("the home does not know of the part");
}

#[test]
fn shared_attributes_are_recalled_before_a_part_is_held_and_given_after_its_return() {
    let mut home = home();
    assert!(home.may_share());
    let commands = home.record(M1, &[3, 5].into(), true).unwrap();
    let recorded = HomeCommand::Record([3, 5].into());
    assert_eq!(commands, [recorded, HomeCommand::RecallShared, HomeCommand::Answer]);
    // Again, by another session after a recall: recorded already, so without a write.
    home.returned(M1, 3, 150);
    assert_eq!(home.record(M2, &[3].into(), false).unwrap(), [HomeCommand::Answer]);
    home.returned(M1, 5, 160);
    assert!(!home.may_share(), "M2 holds one");
    home.returned(M1, 3, 170);
    assert!(!home.may_share(), "a late return of a former holder");
    home.returned(M2, 3, 180);
    assert!(home.may_share());
    assert_eq!(home.stat(), (180, BTreeSet::new()));
}

#[test]
fn parts_of_a_session_that_ended_are_asked_for_their_times() {
    let mut home = home();
    home.record(M1, &[3, 5].into(), false).unwrap();
    home.session_ended(M1, &BTreeSet::new());
    assert_eq!(home.stat().1.len(), 2);
    home.on_stamp(3, 300, None);
    home.on_stamp(5, 250, Some(M2));
    assert_eq!(home.stat(), (300, [slot_of_bucket(gfid(4), 5)].into()));
    home.on_stamp(5, 260, None);
    assert!(!home.may_share(), "M2 is known to hold it; only its return counts");
}

#[test]
fn a_new_lead_takes_all_recorded_parts_for_held() {
    let mut home = Home::found(gfid(4), [1, 2].into(), true, 100);
    assert!(!home.may_share());
    home.on_stamp(1, 90, None);
    home.on_stamp(2, 120, None);
    assert!(home.may_share());
    assert_eq!(home.stat().0, 120);
}

#[test]
fn a_creators_list_comes_with_its_return_or_from_all_sets() {
    let made = || Home::created(gfid(4), M1, 100);
    let mut home = made();
    assert_eq!(home.record(M2, &[1].into(), false), Err(NotYet::Creator(M1)));
    assert_eq!(home.places(), Err(NotYet::Creator(M1)));
    let recorded = home.creator_returned(M1, &[7, 8].into(), 130);
    assert_eq!(recorded, [HomeCommand::Record([7, 8].into())]);
    assert_eq!(home.places().unwrap().len(), 2);
    assert!(!home.may_share(), "the creator still holds its parts");

    let mut home = made();
    home.session_ended(M1, &[SetId(0), SetId(1)].into());
    assert_eq!(home.places(), Err(NotYet::Unknown));
    assert!(home.on_names(SetId(0), &[7].into()).is_empty());
    assert!(home.on_names(SetId(0), &[9].into()).is_empty(), "answered already");
    assert_eq!(home.remove(ChangeId { session: M2, number: 1 }), Err(NotYet::Unknown));
    let recorded = home.on_names(SetId(1), &[8].into());
    assert_eq!(recorded, [HomeCommand::Record([7, 8].into())]);
    assert_eq!(home.places().unwrap().len(), 2);
}

#[test]
fn nothing_is_recorded_while_a_directory_is_being_removed() {
    let mut home = home();
    let id = ChangeId { session: M1, number: 4 };
    home.record(M1, &[3].into(), false).unwrap();
    assert_eq!(home.remove(id), Ok([3].into()));
    assert!(home.is_removing(id));
    assert_eq!(home.record(M2, &[5].into(), false), Err(NotYet::Removing(id)));
    assert!(home.places().is_ok(), "it can still be read");
    home.kept(id);
    assert!(!home.is_removing(id) && home.record(M2, &[5].into(), false).is_ok());
}
