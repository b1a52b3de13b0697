//! Match trees (`xds.type.matcher.v3.Matcher`) whose leaves say what becomes of a request or connection, as far as Envoy lets access control
//! use them.
//!
//! What an input cannot know (the certificate of a client without TLS) ends the walk, whatever else the tree says: nobody is let in by a
//! question that could not be asked. What it knows to be absent matches nothing.

mod input;

use std::collections::HashMap;

use ipnet::IpNet;
use remora_proto::any;
use remora_proto::pb::envoy::config::rbac::v3 as pb;
use remora_proto::pb::envoy::config::rbac::v3::rbac::Action;
use remora_proto::pb::envoy::extensions::matching::input_matchers::ip::v3::Ip;
use remora_proto::pb::envoy::r#type::matcher::v3 as pbm;
use remora_proto::pb::xds::core::v3::TypedExtensionConfig;
use remora_proto::pb::xds::r#type::matcher::v3 as xds;
use xds::matcher::matcher_list::predicate::{MatchType, single_predicate};
use xds::matcher::matcher_list::{Predicate as PbPredicate, predicate::SinglePredicate};
use xds::matcher::matcher_tree::TreeType;
use xds::matcher::{MatcherTree, MatcherType, OnMatch as PbOnMatch, on_match};

use super::{Decision, Subject, network};
use crate::config::route::{Under, each, optional, refuse};
use crate::config::{Compiled, Problems};
use crate::route::strings::StringMatcher;
use input::Input;

/// What trees stand in: it decides which inputs there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    Requests,
    Connections,
}

/// A compiled tree.
#[derive(Debug)]
pub struct Tree {
    root: Matcher,
    /// Some leaf asks the access log to log: then each leaf says whether it does.
    has_log: bool,
}

#[derive(Debug)]
struct Matcher {
    step: Step,
    on_no_match: Option<Box<OnMatch>>,
}

#[derive(Debug)]
enum Step {
    /// Only `on_no_match` counts.
    Nothing,
    List(Vec<(Predicate, OnMatch)>),
    Exact(Input, HashMap<Box<[u8]>, OnMatch>),
    /// The longest first.
    Prefix(Input, Vec<(Box<[u8]>, OnMatch)>),
}

#[derive(Debug)]
enum OnMatch {
    Leaf(Leaf),
    Matcher(Box<Matcher>),
}

/// `envoy.config.rbac.v3.Action`
#[derive(Debug)]
struct Leaf {
    name: Box<str>,
    action: Action,
}

#[derive(Debug)]
enum Predicate {
    Text(Input, StringMatcher),
    Ip(Input, Vec<IpNet>),
    And(Vec<Predicate>),
    Or(Vec<Predicate>),
    Not(Box<Predicate>),
}

/// How far a walk came; an error is an input that could not be asked.
type Walk<T> = Result<T, Unknown>;

#[derive(Debug)]
struct Unknown;

impl Tree {
    /// # Errors
    /// Whatever is wrong, or Envoy's access control does not take, by path.
    pub fn compile(value: &xds::Matcher, of: Of) -> Compiled<Self> {
        let root = Matcher::compile(value, of)?;
        Ok(Self {
            has_log: root.leaves(&mut |leaf| leaf.action == Action::Log),
            root,
        })
    }

    pub fn decide(&self, subject: &Subject<'_>) -> Decision<'_> {
        match self.root.walk(subject) {
            Ok(Some(leaf)) => Decision {
                allowed: leaf.action != Action::Deny,
                policy: Some(&leaf.name),
                log: self.has_log.then_some(leaf.action == Action::Log),
            },
            Ok(None) | Err(Unknown) => Decision {
                allowed: false,
                policy: None,
                log: None,
            },
        }
    }
}

impl Matcher {
    fn compile(value: &xds::Matcher, of: Of) -> Compiled<Self> {
        let step = match &value.matcher_type {
            None => Step::Nothing,
            Some(MatcherType::MatcherList(list)) => {
                refuse("matcher_list.matchers", list.matchers.is_empty(), "needs at least one")?;
                Step::List(
                    each("matchers", &list.matchers, |matcher| {
                        let predicate = required("predicate", matcher.predicate.as_ref(), |value| {
                            Predicate::compile(value, of)
                        })?;
                        let on_match = required("on_match", matcher.on_match.as_ref(), |value| {
                            OnMatch::compile(value, of)
                        })?;
                        Ok((predicate, on_match))
                    })
                    .under("matcher_list")?,
                )
            }
            Some(MatcherType::MatcherTree(tree)) => Step::tree(tree, of).under("matcher_tree")?,
        };
        let on_no_match = optional("on_no_match", value.on_no_match.as_deref(), |value| {
            OnMatch::compile(value, of)
        })?;
        Ok(Self {
            step,
            on_no_match: on_no_match.map(Box::new),
        })
    }

    /// Whether `is` holds for some leaf.
    fn leaves(&self, is: &mut dyn FnMut(&Leaf) -> bool) -> bool {
        let mut of = |on_match: &OnMatch| match on_match {
            OnMatch::Leaf(leaf) => is(leaf),
            OnMatch::Matcher(matcher) => matcher.leaves(is),
        };
        let found = match &self.step {
            Step::Nothing => false,
            Step::List(list) => list.iter().any(|(_, on_match)| of(on_match)),
            Step::Exact(_, map) => map.values().any(&mut of),
            Step::Prefix(_, prefixes) => prefixes.iter().any(|(_, on_match)| of(on_match)),
        };
        found || self.on_no_match.as_deref().is_some_and(of)
    }

    /// The leaf that it comes to. A nested matcher without one counts as no match, and the walk goes on behind it.
    fn walk(&self, subject: &Subject<'_>) -> Walk<Option<&Leaf>> {
        let found = match &self.step {
            Step::Nothing => None,
            Step::List(list) => {
                let mut found = None;
                for (predicate, on_match) in list {
                    if predicate.holds(subject)? {
                        found = on_match.walk(subject)?;
                    }
                    if found.is_some() {
                        break;
                    }
                }
                found
            }
            Step::Exact(input, map) => {
                let value = input.known(subject).ok_or(Unknown)?;
                match value.bytes().and_then(|value| map.get(value)) {
                    Some(on_match) => on_match.walk(subject)?,
                    None => None,
                }
            }
            Step::Prefix(input, prefixes) => {
                let value = input.known(subject).ok_or(Unknown)?;
                let mut found = None;
                for (prefix, on_match) in prefixes {
                    if value.bytes().is_some_and(|value| value.starts_with(prefix)) {
                        found = on_match.walk(subject)?;
                    }
                    if found.is_some() {
                        break;
                    }
                }
                found
            }
        };
        match (&self.on_no_match, found) {
            (Some(on_no_match), None) => on_no_match.walk(subject),
            (_, found) => Ok(found),
        }
    }
}

impl Step {
    fn tree(tree: &MatcherTree, of: Of) -> Compiled<Self> {
        let input = required("input", tree.input.as_ref(), |input| Input::compile(input, of))?;
        let entries = |map: &xds::matcher::matcher_tree::MatchMap| {
            refuse("map", map.map.is_empty(), "needs at least one entry")?;
            let mut entries = Vec::with_capacity(map.map.len());
            for (key, on_match) in &map.map {
                let on_match = OnMatch::compile(on_match, of).under(&format!("map[{key:?}]"))?;
                entries.push((Box::from(key.as_bytes()), on_match));
            }
            Ok(entries)
        };
        Ok(match &tree.tree_type {
            Some(TreeType::ExactMatchMap(map)) => {
                Self::Exact(input, entries(map).under("exact_match_map")?.into_iter().collect())
            }
            Some(TreeType::PrefixMatchMap(map)) => {
                let mut prefixes: Vec<(Box<[u8]>, OnMatch)> = entries(map).under("prefix_match_map")?;
                prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
                Self::Prefix(input, prefixes)
            }
            Some(TreeType::CustomMatch(_)) => return Err(Problems::one("custom_match", "is not supported")),
            None => return Err(Problems::one("tree_type", "is required")),
        })
    }
}

impl OnMatch {
    fn compile(value: &PbOnMatch, of: Of) -> Compiled<Self> {
        refuse("keep_matching", value.keep_matching, "keep_matching is not supported")?;
        match &value.on_match {
            Some(on_match::OnMatch::Matcher(matcher)) => {
                let matcher = Matcher::compile(matcher, of).under("matcher")?;
                Ok(Self::Matcher(Box::new(matcher)))
            }
            Some(on_match::OnMatch::Action(action)) => Leaf::compile(action).under("action").map(Self::Leaf),
            None => Err(Problems::one("on_match", "is required")),
        }
    }

    fn walk(&self, subject: &Subject<'_>) -> Walk<Option<&Leaf>> {
        match self {
            Self::Leaf(leaf) => Ok(Some(leaf)),
            Self::Matcher(matcher) => matcher.walk(subject),
        }
    }
}

impl Leaf {
    fn compile(config: &TypedExtensionConfig) -> Compiled<Self> {
        let value: pb::Action = unpack(config)?;
        refuse("name", value.name.is_empty(), "must not be empty")?;
        let action = Action::try_from(value.action).map_err(|_| Problems::one("action", "unknown value"))?;
        Ok(Self {
            name: value.name.into(),
            action,
        })
    }
}

impl Predicate {
    fn compile(value: &PbPredicate, of: Of) -> Compiled<Self> {
        let several = |list: &xds::matcher::matcher_list::predicate::PredicateList| {
            refuse("predicate", list.predicate.len() < 2, "needs at least two")?;
            each("predicate", &list.predicate, |value| Self::compile(value, of))
        };
        Ok(match &value.match_type {
            Some(MatchType::SinglePredicate(single)) => Self::single(single, of).under("single_predicate")?,
            Some(MatchType::AndMatcher(list)) => Self::And(several(list).under("and_matcher")?),
            Some(MatchType::OrMatcher(list)) => Self::Or(several(list).under("or_matcher")?),
            Some(MatchType::NotMatcher(inner)) => Self::Not(Box::new(Self::compile(inner, of).under("not_matcher")?)),
            None => return Err(Problems::one("match_type", "is required")),
        })
    }

    fn single(value: &SinglePredicate, of: Of) -> Compiled<Self> {
        let input = required("input", value.input.as_ref(), |input| Input::compile(input, of))?;
        match &value.matcher {
            Some(single_predicate::Matcher::ValueMatch(text)) => {
                Ok(Self::Text(input, string(text).under("value_match")?))
            }
            Some(single_predicate::Matcher::CustomMatch(custom)) => {
                let ranges = ranges(custom, &input).under("custom_match")?;
                Ok(Self::Ip(input, ranges))
            }
            None => Err(Problems::one("matcher", "is required")),
        }
    }

    fn holds(&self, subject: &Subject<'_>) -> Walk<bool> {
        match self {
            Self::Text(input, matcher) => {
                let value = input.known(subject).ok_or(Unknown)?;
                Ok(value.bytes().is_some_and(|value| matcher.matches(value)))
            }
            Self::Ip(input, ranges) => {
                let address = input.address(subject).ok_or(Unknown)?;
                Ok(ranges.iter().any(|range| range.contains(&address)))
            }
            Self::And(all) => {
                for predicate in all {
                    if !predicate.holds(subject)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Self::Or(any) => {
                let mut unknown = false;
                for predicate in any {
                    match predicate.holds(subject) {
                        Ok(true) => return Ok(true),
                        Ok(false) => {}
                        Err(Unknown) => unknown = true,
                    }
                }
                if unknown { Err(Unknown) } else { Ok(false) }
            }
            Self::Not(predicate) => predicate.holds(subject).map(|holds| !holds),
        }
    }
}

/// `envoy.matching.matchers.ip`, over inputs that are addresses.
fn ranges(config: &TypedExtensionConfig, input: &Input) -> Compiled<Vec<IpNet>> {
    let ip: Ip = unpack(config)?;
    refuse(
        "cidr_ranges",
        !input.is_address(),
        "only addresses are matched by range",
    )?;
    refuse("cidr_ranges", ip.cidr_ranges.is_empty(), "needs at least one")?;
    each("cidr_ranges", &ip.cidr_ranges, network)
}

fn string(value: &xds::StringMatcher) -> Compiled<StringMatcher> {
    use pbm::string_matcher::MatchPattern as To;
    use xds::string_matcher::MatchPattern as From;
    let pattern = match &value.match_pattern {
        Some(From::Exact(text)) => To::Exact(text.clone()),
        Some(From::Prefix(text)) => To::Prefix(text.clone()),
        Some(From::Suffix(text)) => To::Suffix(text.clone()),
        Some(From::Contains(text)) => To::Contains(text.clone()),
        Some(From::SafeRegex(regex)) => {
            refuse("safe_regex.engine_type", regex.engine_type.is_none(), "is required")?;
            To::SafeRegex(pbm::RegexMatcher {
                regex: regex.regex.clone(),
                ..Default::default()
            })
        }
        Some(From::Custom(_)) => return Err(Problems::one("custom", "custom string matchers are not supported")),
        None => return Err(Problems::one("match_pattern", "is required")),
    };
    StringMatcher::compile(&pbm::StringMatcher {
        ignore_case: value.ignore_case,
        match_pattern: Some(pattern),
    })
}

fn required<I, T>(field: &str, value: Option<&I>, compile: impl FnOnce(&I) -> Compiled<T>) -> Compiled<T> {
    match value {
        Some(value) => compile(value).under(field),
        None => Err(Problems::one(field, "is required")),
    }
}

fn unpack<M: prost::Message + prost::Name + Default>(config: &TypedExtensionConfig) -> Compiled<M> {
    let Some(typed) = &config.typed_config else {
        return Err(Problems::one("typed_config", "is required"));
    };
    any::unpack(typed).map_err(|error| Problems::one("typed_config", error.to_string()))
}

#[cfg(test)]
mod tests;
