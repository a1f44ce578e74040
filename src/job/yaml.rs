//! Owns YAML texts as trees that keep how each value was written and where. Never interprets a scalar: see `python`.
//!
//! As PyYAML's safe loader reads them: of a key that is given twice the last one counts, aliases are expanded, and
//! `<<` merges mappings. What is expanded is bounded.

use std::collections::HashMap;
use std::ops::Range;

use granit_parser::{Event, Parser, ScalarStyle, Span};

/// How many nodes a text may have once its aliases are expanded.
const MOST_NODES: usize = 50_000;
const DEEPEST: usize = 64;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Node {
    pub value: Yaml,
    /// In bytes of the text, to the end of its first line at most.
    pub span: Range<usize>,
}

#[derive(Clone, Debug)]
pub enum Yaml {
    Scalar {
        text: String,
        /// Without quotes, so that its spelling decides its type.
        plain: bool,
        /// The type of a `!!type` before it.
        tag: Option<String>,
    },
    Sequence(Vec<Node>),
    /// Pairs in the text's order, each key once.
    Mapping(Vec<(Node, Node)>),
}

/// Why a text is not YAML.
#[derive(Debug)]
pub struct YamlError {
    pub message: String,
    pub span: Range<usize>,
}

/// A text's tree, and the places of keys that are given twice.
#[derive(Debug)]
pub struct Document {
    pub root: Node,
    pub repeated: Vec<(String, Range<usize>)>,
}

impl Node {
    /// The value of a key of a mapping.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.pairs()
            .iter()
            .find(|(name, _)| name.is_text(key))
            .map(|(_, value)| value)
    }

    /// The pairs of a mapping; none of what is none.
    pub fn pairs(&self) -> &[(Node, Node)] {
        match &self.value {
            Yaml::Mapping(pairs) => pairs,
            _ => &[],
        }
    }

    pub fn is_mapping(&self) -> bool {
        matches!(self.value, Yaml::Mapping(_))
    }

    /// The text of a scalar as it is written.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Yaml::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    fn is_text(&self, wanted: &str) -> bool {
        self.text() == Some(wanted)
    }
}

/// Reads the only document of a text.
///
/// # Errors
/// If the text is not YAML, empty, has several documents, or is too large once its aliases are expanded.
pub fn parse(text: &str) -> Result<Document, YamlError> {
    let mut builder = Builder {
        text,
        starts: line_starts(text),
        anchors: HashMap::new(),
        nodes: 0,
        repeated: Vec::new(),
    };
    let mut events = Parser::new_from_str(text);
    let mut root = None;
    while let Some((event, span)) = builder.next(&mut events)? {
        match event {
            Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
            Event::StreamEnd => break,
            _ if root.is_some() => return Err(builder.error(&span, "there is a second document")),
            event => root = Some(builder.node(event, &span, &mut events, 0)?),
        }
    }
    let root = root.ok_or_else(|| YamlError {
        message: "the file is empty".into(),
        span: 0..0,
    })?;
    Ok(Document {
        root,
        repeated: builder.repeated,
    })
}

type Events<'a> = Parser<'a, granit_parser::StrInput<'a>>;

struct Builder<'a> {
    text: &'a str,
    starts: Vec<usize>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    repeated: Vec<(String, Range<usize>)>,
}

impl<'a> Builder<'a> {
    fn next(&self, events: &mut Events<'a>) -> Result<Option<(Event<'a>, Span)>, YamlError> {
        match events.next() {
            None => Ok(None),
            Some(Ok(found)) => Ok(Some(found)),
            Some(Err(error)) => {
                let marker = *error.marker();
                let start = self.offset(marker.line(), marker.col());
                Err(YamlError {
                    message: error.info().to_string(),
                    span: start..self.end_of_line(start),
                })
            }
        }
    }

    fn node(
        &mut self,
        event: Event<'a>,
        span: &Span,
        events: &mut Events<'a>,
        depth: usize,
    ) -> Result<Node, YamlError> {
        self.count(1, span)?;
        if depth > DEEPEST {
            return Err(self.error(span, "it is nested too deeply"));
        }
        let (value, anchor) = match event {
            Event::Alias(id) => {
                let node = self
                    .anchors
                    .get(&id)
                    .cloned()
                    .ok_or_else(|| self.error(span, "an alias refers to itself"))?;
                self.count(size(&node), span)?;
                return Ok(node);
            }
            Event::Scalar(text, style, anchor, tag) => (
                Yaml::Scalar {
                    text: text.into_owned(),
                    plain: style == ScalarStyle::Plain,
                    // `!` alone changes nothing.
                    tag: tag
                        .map(|tag| tag.suffix().to_string())
                        .filter(|tag| !tag.is_empty() && tag != "!"),
                },
                anchor,
            ),
            Event::SequenceStart(_, anchor, _) => {
                let mut values = Vec::new();
                while let Some((event, span)) = self.next(events)? {
                    if event == Event::SequenceEnd {
                        break;
                    }
                    values.push(self.node(event, &span, events, depth + 1)?);
                }
                (Yaml::Sequence(values), anchor)
            }
            Event::MappingStart(_, anchor, _) => {
                (Yaml::Mapping(self.mapping(events, depth)?), anchor)
            }
            _ => return Err(self.error(span, "there is no value here")),
        };
        let start = self.offset(span.start.line(), span.start.col());
        let end = self.offset(span.end.line(), span.end.col());
        let node = Node {
            value,
            span: start..self.end_of_line(start).min(end.max(start)),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn mapping(
        &mut self,
        events: &mut Events<'a>,
        depth: usize,
    ) -> Result<Vec<(Node, Node)>, YamlError> {
        let mut own: Vec<(Node, Node)> = Vec::new();
        let mut merged: Vec<(Node, Node)> = Vec::new();
        while let Some((event, span)) = self.next(events)? {
            if event == Event::MappingEnd {
                break;
            }
            let key = self.node(event, &span, events, depth + 1)?;
            let Some((event, span)) = self.next(events)? else {
                break;
            };
            let value = self.node(event, &span, events, depth + 1)?;
            match (&key.value, &value.value) {
                (
                    Yaml::Scalar {
                        text, plain: true, ..
                    },
                    Yaml::Mapping(pairs),
                ) if text == "<<" => {
                    merged.extend(pairs.iter().cloned());
                }
                (
                    Yaml::Scalar {
                        text, plain: true, ..
                    },
                    Yaml::Sequence(parts),
                ) if text == "<<" => {
                    // The first of several wins.
                    for part in parts.iter().rev() {
                        merged.extend(part.pairs().iter().cloned());
                    }
                }
                _ => {
                    if let Some(name) = key.text()
                        && own.iter().any(|(known, _)| known.is_text(name))
                    {
                        self.repeated.push((name.to_string(), key.span.clone()));
                    }
                    own.push((key, value));
                }
            }
        }
        // As a dictionary of Python: a key keeps its first place, and takes its last value.
        let mut pairs: Vec<(Node, Node)> = Vec::new();
        for (key, value) in merged.into_iter().chain(own) {
            let known = key
                .text()
                .and_then(|name| pairs.iter().position(|(known, _)| known.is_text(name)));
            match known {
                Some(known) => pairs[known].1 = value,
                None => pairs.push((key, value)),
            }
        }
        Ok(pairs)
    }

    fn count(&mut self, nodes: usize, span: &Span) -> Result<(), YamlError> {
        self.nodes += nodes;
        if self.nodes > MOST_NODES {
            return Err(self.error(
                span,
                &format!("it has over {MOST_NODES} values once its aliases are expanded"),
            ));
        }
        Ok(())
    }

    fn error(&self, span: &Span, message: &str) -> YamlError {
        let start = self.offset(span.start.line(), span.start.col());
        YamlError {
            message: message.into(),
            span: start..self.end_of_line(start),
        }
    }

    /// The byte of a line (from 1) and a column in characters (from 0).
    fn offset(&self, line: usize, column: usize) -> usize {
        let start = line
            .checked_sub(1)
            .and_then(|line| self.starts.get(line))
            .copied()
            .unwrap_or(self.text.len());
        self.text[start..]
            .char_indices()
            .nth(column)
            .map_or(self.text.len(), |(at, _)| start + at)
    }

    fn end_of_line(&self, from: usize) -> usize {
        self.text[from..]
            .find('\n')
            .map_or(self.text.len(), |end| from + end)
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.value {
        Yaml::Scalar { .. } => 0,
        Yaml::Sequence(values) => values.iter().map(size).sum(),
        Yaml::Mapping(pairs) => pairs
            .iter()
            .map(|(key, value)| size(key) + size(value))
            .sum(),
    }
}

fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0)
        .chain(text.match_indices('\n').map(|(at, _)| at + 1))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_equal_keys_counts_and_merged_ones_come_first() {
        let document = parse("base: &b {a: 1, b: 2}\nown:\n  <<: *b\n  b: 3\n  b: 4\n").unwrap();
        let own = document.root.get("own").unwrap();
        assert_eq!(own.get("a").unwrap().text(), Some("1"));
        assert_eq!(own.get("b").unwrap().text(), Some("4"));
        assert_eq!(document.repeated.len(), 1);
        assert_eq!(document.repeated[0].0, "b");
    }

    #[test]
    fn comments_stand_anywhere_and_are_no_values() {
        let many = "  # one of many\n".repeat(5000);
        let text = format!(
            "# first\na: # after a key\n  # before a value\n  - 1 # after a value\n  # between values\n{many}  - 2\n\
             # between keys\nb: [3, # in a flow\n  4]\n# last\n"
        );
        let root = parse(&text).unwrap().root;
        for (key, expected) in [("a", ["1", "2"]), ("b", ["3", "4"])] {
            let Yaml::Sequence(values) = &root.get(key).unwrap().value else {
                panic!("{key} is a list");
            };
            let values: Vec<_> = values.iter().filter_map(Node::text).collect();
            assert_eq!(values, expected);
        }
    }

    #[test]
    fn aliases_cannot_make_a_small_text_a_large_one() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for level in 1..10 {
            let previous = level - 1;
            let aliases = vec![format!("*a{previous}"); 9].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        assert!(parse(&bomb).unwrap_err().message.contains("50000 values"));
        let deep = "[".repeat(10_000);
        assert!(parse(&deep).is_err());
    }

    #[test]
    fn comments_may_stand_anywhere() {
        let text = "# a\na: # b\n  # c\n  - x # d\n  # e\n  - {y: [z # f\n  ]} # g\nb: | # h\n  # text\nc: # i\n# j\nd: 1 # k\n...\n# l";
        let root = parse(text).unwrap().root;
        let Yaml::Sequence(values) = &root.get("a").unwrap().value else {
            panic!("{root:?}");
        };
        assert_eq!(values.len(), 2);
        assert_eq!(root.get("b").unwrap().text(), Some("# text\n"));
        assert_eq!(root.get("d").unwrap().text(), Some("1"));
    }

    #[test]
    fn a_mistake_has_its_place() {
        let error = parse("a: 1\nb: [1\nc: 2\n").unwrap_err();
        assert!(error.span.start >= 5, "{error:?}");
        assert!(parse("").is_err());
        assert!(parse("a: 1\n---\nb: 2\n").is_err());
    }
}
