//! Owns who a board is: what it claims, what the lab knows, and where the two disagree.
//! Never decides what to do about it.

use serde::{Deserialize, Serialize};

use crate::recipe::Mac;

/// What a board's agent says of it when it checks in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Claim {
    /// The name that the card's boot script put on the kernel's command line.
    pub board: String,
    pub mac: String,
    /// `serial-number` of the device tree.
    pub serial: String,
    /// `model` of the device tree.
    pub model: String,
    /// `soc_id` of the kernel's soc bus.
    pub soc: String,
    /// CID register of the card.
    pub card: String,
    /// The kernel's random id of this boot.
    pub boot: String,
    /// The id of the image that the board runs.
    pub image: String,
    /// The random secret of this boot; the agent shows its hash on the board's console.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub secret: String,
}

/// What the lab knows of a board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub name: String,
    pub mac: Mac,
    /// Ids of the images that it may run; empty while any will do.
    pub images: Vec<String>,
}

/// Compares a claim with what the lab knows. Gives what is wrong, in one sentence, which is the lab's to know and not the
/// board's.
pub fn check(claim: &Claim, known: &[Known]) -> Option<String> {
    let mac: Option<Mac> = claim.mac.parse().ok();
    let Some(board) = known.iter().find(|known| known.name == claim.board) else {
        let by_mac = known.iter().find(|known| Some(known.mac) == mac);
        return Some(match by_mac {
            Some(board) => format!(
                "the board with {}'s MAC {} calls itself `{}`: does it have another board's card?",
                board.name, board.mac, claim.board
            ),
            None => format!(
                "`{}` (MAC {}) is not a board of this lab: `hearth lab adopt` adds it",
                claim.board, claim.mac
            ),
        });
    };
    if claim.mac.is_empty() {
        return Some(format!(
            "`{}` should have MAC {} and found no network interface that has one",
            claim.board, board.mac
        ));
    }
    if mac != Some(board.mac) {
        let owner = known.iter().find(|known| Some(known.mac) == mac);
        let whose = owner
            .map(|owner| format!(", which is {}'s", owner.name))
            .unwrap_or_default();
        return Some(format!(
            "`{}` should have MAC {} and has {}{whose}: is its card in another board?",
            claim.board, board.mac, claim.mac
        ));
    }
    match board.images.last() {
        Some(image) if !board.images.contains(&claim.image) => Some(format!(
            "`{}` should run the image {image} and runs {}",
            claim.board, claim.image
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str, last: u8) -> Known {
        Known {
            name: name.into(),
            mac: Mac([2, 0, 0, 0, 0, last]),
            images: vec!["img-1".into()],
        }
    }

    fn claim(board: &str, last: u8, image: &str, boot: &str) -> Claim {
        Claim {
            board: board.into(),
            mac: format!("02:00:00:00:00:{last:02x}"),
            image: image.into(),
            boot: boot.into(),
            ..Claim::default()
        }
    }

    #[test]
    fn each_wrong_identity_is_named_as_what_it_is() {
        let lab = [known("neo1", 1), known("neo2", 2)];
        let said = |claim: &Claim| check(claim, &lab).unwrap_or_default();
        assert_eq!(check(&claim("neo1", 1, "img-1", "a"), &lab), None);
        assert!(said(&claim("new", 9, "img-1", "a")).contains("not a board of this lab"));
        assert!(said(&claim("new", 2, "img-1", "a")).contains("another board's card"));
        assert!(said(&claim("neo1", 2, "img-1", "a")).contains("which is neo2's"));
        assert!(said(&claim("neo1", 1, "img-0", "a")).contains("should run the image img-1"));
        let mut bare = claim("neo1", 1, "img-1", "a");
        bare.mac.clear();
        assert!(said(&bare).contains("no network interface"));
    }
}
