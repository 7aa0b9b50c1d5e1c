//! How alike two names are: what a person may have meant who wrote one that there is not.

/// Changes between two names up to which one may be meant by the other.
const FAR: usize = 2;

/// The names among `candidates` that `text` may have been meant to be, the likeliest first, at most `most`.
///
/// Near is what one or two changed, missing, added or swapped characters make (of a short name, fewer), and what
/// begins as `text` does.
pub fn near<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>, most: usize) -> Vec<&'a str> {
    let wanted: Vec<char> = text.to_lowercase().chars().take(80).collect();
    let mut found: Vec<(usize, &str)> = candidates
        .into_iter()
        .filter_map(|candidate| rank(&wanted, candidate).map(|rank| (rank, candidate)))
        .collect();
    found.sort_unstable();
    found.truncate(most);
    found.into_iter().map(|(_, candidate)| candidate).collect()
}

fn rank(wanted: &[char], candidate: &str) -> Option<usize> {
    let other: Vec<char> = candidate.to_lowercase().chars().collect();
    // Of two letters each changed, nothing is left to be like.
    let allowed = FAR.min(wanted.len().max(other.len()) / 2);
    let changes = (other.len().abs_diff(wanted.len()) <= FAR).then(|| distance(wanted, &other));
    match changes {
        Some(changes) if changes <= allowed => Some(changes),
        Some(_) | None => (!wanted.is_empty() && other.starts_with(wanted)).then_some(FAR + 1),
    }
}

/// How many characters must be changed, added, removed or swapped with their neighbour to make `b` of `a`.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let changed = last[j] + usize::from(x != y);
            let mut fewest = changed.min(last[j + 1] + 1).min(row[j] + 1);
            let swapped = i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y;
            if swapped {
                fewest = fewest.min(before[j - 1] + 1);
            }
            row.push(fewest);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn slips_of_the_hand_are_near() {
        let names = ["web", "web-2", "database", "db"];
        assert_eq!(near("wbe", names, 3), ["web"]);
        assert_eq!(near("Web", names, 3), ["web", "web-2"]);
        assert_eq!(near("data", names, 3), ["database"]);
        assert_eq!(near("databse", names, 3), ["database"]);
        assert_eq!(near("", names, 3), Vec::<&str>::new());
        assert_eq!(near("xy", names, 3), Vec::<&str>::new());
        assert_eq!(near("web", names, 1), ["web"]);
    }

    proptest! {
        /// What a distance is: nothing to itself, the same both ways, never more than the longer text.
        #[test]
        fn it_is_a_distance(a in "[a-c]{0,7}", b in "[a-c]{0,7}") {
            let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
            prop_assert_eq!(distance(&a, &b) == 0, a == b);
            prop_assert_eq!(distance(&a, &b), distance(&b, &a));
            prop_assert!(distance(&a, &b) <= a.len().max(b.len()));
            prop_assert!(distance(&a, &b) >= a.len().abs_diff(b.len()));
        }

        #[test]
        fn no_text_panics(text in ".{0,90}", name in ".{0,90}") {
            let _ = near(&text, [name.as_str()], 3);
        }
    }
}
