//! Owns relationship fields such as `Depends` (Debian Policy 7.1). Never knows which packages there
//! are.

use std::cmp::Ordering;

use super::version;

/// One alternative of a relationship: `name:qualifier (operator version)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relation<'a> {
    pub name: &'a str,
    /// `any`, `native` or an architecture.
    pub qualifier: Option<&'a str>,
    pub constraint: Option<(Operator, &'a str)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Earlier,
    EarlierOrEqual,
    Equal,
    LaterOrEqual,
    Later,
}

impl Relation<'_> {
    /// Whether a package's version, or the version of what it provides, satisfies the constraint.
    /// An unversioned `Provides` satisfies only a relation without a version.
    pub fn admits(&self, version: Option<&str>) -> bool {
        let Some((operator, wanted)) = self.constraint else {
            return true;
        };
        let Some(version) = version else {
            return false;
        };
        let order = version::compare(version, wanted);
        match operator {
            Operator::Earlier => order == Ordering::Less,
            Operator::EarlierOrEqual => order != Ordering::Greater,
            Operator::Equal => order == Ordering::Equal,
            Operator::LaterOrEqual => order != Ordering::Less,
            Operator::Later => order == Ordering::Greater,
        }
    }
}

/// The groups of a field, in order; each is a list of alternatives. Text that does not parse
/// becomes a relation with that text as its name, which no package has.
///
/// ```
/// use hearth::archive::relation::parse;
///
/// let groups: Vec<_> = parse("libc6 (>= 2.36), default-mta | mail-transport-agent").collect();
/// assert_eq!(groups.len(), 2);
/// assert!(groups[0][0].admits(Some("2.41-12")));
/// assert!(!groups[0][0].admits(Some("2.31-13")));
/// assert_eq!(groups[1][1].name, "mail-transport-agent");
/// ```
pub fn parse(field: &str) -> impl Iterator<Item = Vec<Relation<'_>>> {
    field
        .split(',')
        .map(str::trim)
        .filter(|group| !group.is_empty())
        .map(|group| group.split('|').map(|text| one(text.trim())).collect())
}

fn one(text: &str) -> Relation<'_> {
    understand(text).unwrap_or(Relation {
        name: text,
        qualifier: None,
        constraint: None,
    })
}

fn understand(text: &str) -> Option<Relation<'_>> {
    let end = text
        .find(|c: char| c.is_whitespace() || c == '(')
        .unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let (name, qualifier) = match name.split_once(':') {
        Some((name, qualifier)) => (name, Some(qualifier)),
        None => (name, None),
    };
    let rest = rest.trim();
    let constraint = if rest.is_empty() {
        None
    } else {
        let inside = rest.strip_prefix('(')?.strip_suffix(')')?.trim();
        let end = inside.find(|c: char| !"<>=".contains(c))?;
        let (operator, version) = inside.split_at(end);
        // A single `<` or `>` is obsolete and means "or equal".
        let operator = match operator {
            "<<" => Operator::Earlier,
            "<=" | "<" => Operator::EarlierOrEqual,
            "=" => Operator::Equal,
            ">=" | ">" => Operator::LaterOrEqual,
            ">>" => Operator::Later,
            _ => return None,
        };
        Some((operator, version.trim()))
    };
    Some(Relation {
        name,
        qualifier,
        constraint,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_alternatives_and_constraints_are_read() {
        let groups: Vec<_> =
            parse("libc6 (>= 2.36), awk | mawk:any(<<2) , python3:any (= 3.11-1),").collect();
        assert_eq!(groups.len(), 3);
        assert_eq!(
            groups[0],
            [Relation {
                name: "libc6",
                qualifier: None,
                constraint: Some((Operator::LaterOrEqual, "2.36"))
            }]
        );
        assert_eq!(groups[1][0].name, "awk");
        assert_eq!(groups[1][1].qualifier, Some("any"));
        assert_eq!(groups[1][1].constraint, Some((Operator::Earlier, "2")));
        assert_eq!(groups[2][0].constraint, Some((Operator::Equal, "3.11-1")));
    }

    #[test]
    fn nonsense_is_a_package_that_nobody_has() {
        for text in ["a (>= 1", "a (1)", "a [armhf]", "a (>=)"] {
            let group = parse(text).next().unwrap();
            assert_eq!(group[0].name, text);
        }
    }
}
