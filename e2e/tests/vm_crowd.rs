//! Eight clients do anything to four VMs: there is an order in which every answer is true, no VM has two VMMs, and nothing
//! is left.

use outlast_e2e::crowd::{Crowd, Evening, Watch, play, violations};
use outlast_e2e::{Lab, on_lab};
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::time::Duration;

const CLIENTS: u64 = 8;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().expect("a number"))
}

fn crowd(seed: u64, within: Duration) {
    let seed = number("OUTLAST_CROWD_SEED", seed);
    eprintln!("OUTLAST_CROWD_SEED={seed}");
    on_lab(|lab| {
        // The template is made before anybody waits for it.
        lab.running_vm("warm");
        lab.outlast(&["vm", "rm", "--force", "warm"]).expect_code(0);
        let crowd = come_together(lab, seed, within);
        let wrong = violations(&crowd);
        eprintln!("{} answers, {} sets of VMMs", crowd.calls.len(), crowd.together.len());
        assert!(wrong.is_empty(), "OUTLAST_CROWD_SEED={seed}:\n{}", wrong.join("\n\n"));
        for vm in lab.vms() {
            lab.outlast(&["vm", "rm", "--force", &vm.name]).expect_code(0);
        }
        lab.expect_nothing_left();
        let store = Connection::open(lab.places().database()).expect("the store can be opened");
        let check: String =
            store.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("it is checked");
        assert_eq!(check, "ok");
    });
}

fn come_together(lab: &Lab, seed: u64, within: Duration) -> Crowd {
    let watch = Watch::begin();
    let evening = Evening::begin(within);
    let played: Vec<_> = std::thread::scope(|scope| {
        let evening = &evening;
        let client = |client| scope.spawn(move || play(lab, seed, client, evening));
        let clients: Vec<_> = (0..CLIENTS).map(client).collect();
        clients.into_iter().map(|client| client.join().expect("a client does not panic")).collect()
    });
    let (calls, wrong): (Vec<_>, Vec<_>) = played.into_iter().unzip();
    Crowd { calls: calls.concat(), wrong: wrong.concat(), together: watch.end(), names: names(lab) }
}

/// The VM of each incarnation there ever was, of removed ones, too.
fn names(lab: &Lab) -> BTreeMap<String, String> {
    let store = Connection::open(lab.places().database()).expect("the store can be opened");
    let mut rows = store
        .prepare("SELECT i.id, v.name FROM incarnations i JOIN vms v ON v.number = i.vm")
        .expect("the store has incarnations of VMs");
    let pairs = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("they can be read");
    pairs.map(|pair| pair.expect("a row")).collect()
}

#[test]
fn eight_clients_do_anything_to_four_vms_for_ten_seconds_and_every_answer_is_true() {
    crowd(4, Duration::from_secs(10));
}

#[test]
fn long_eight_clients_do_anything_to_four_vms_for_a_minute_and_every_answer_is_true() {
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is later than 1970");
    crowd(now.as_secs(), Duration::from_secs(60));
}
