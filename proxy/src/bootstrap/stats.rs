//! `stats_config`: which stats exist for a reader, and which parts of their names are tags.

use std::sync::Arc;
use std::time::Duration;

use remora_proto::pb::envoy::config::bootstrap::v3::Bootstrap;
use remora_proto::pb::envoy::config::metrics::v3 as pb;

use pb::stats_matcher::StatsMatcher as Oneof;
use pb::tag_specifier::TagValue;

use crate::config::route::{Under, each, optional};
use crate::config::{Compiled, Problems};
use crate::route::strings::StringMatcher;
use crate::telemetry::tags::TagRules;

#[derive(Clone, Debug, Default)]
pub struct StatsConfig {
    pub flush: Flush,
    pub tags: TagRules,
    pub matcher: StatsMatcher,
    pub buckets: Buckets,
}

/// `histogram_bucket_settings`: which histograms have upper bounds of their own; the first that matches counts.
#[derive(Clone, Debug, Default)]
pub struct Buckets(Vec<(StringMatcher, Arc<[f64]>)>);

impl Buckets {
    /// The bounds of the histogram of that name; `None`: Envoy's default.
    pub fn of(&self, name: &str) -> Option<&Arc<[f64]>> {
        let (_, bounds) = self.0.iter().find(|(matcher, _)| matcher.matches(name.as_bytes()))?;
        Some(bounds)
    }

    fn compile(settings: &[pb::HistogramBucketSettings]) -> Compiled<Self> {
        let compiled = each("histogram_bucket_settings", settings, |setting| {
            let matcher = setting
                .r#match
                .as_ref()
                .map(StringMatcher::compile)
                .transpose()
                .under("match")?;
            let matcher = matcher.ok_or_else(|| Problems::one("match", "required"))?;
            // Each is above zero and there once: the rules of the field say so.
            let mut bounds = setting.buckets.clone();
            bounds.sort_by(f64::total_cmp);
            Ok((matcher, Arc::from(bounds)))
        });
        compiled.map(Self)
    }
}

/// When the interval of a histogram ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// `stats_flush_interval`
    Every(Duration),
    /// `stats_flush_on_admin`: when somebody reads stats.
    OnAdmin,
}

impl Default for Flush {
    fn default() -> Self {
        Self::Every(Duration::from_secs(5))
    }
}

impl Flush {
    fn of(config: &Bootstrap) -> Self {
        use remora_proto::pb::envoy::config::bootstrap::v3::bootstrap::StatsFlush;
        if matches!(config.stats_flush, Some(StatsFlush::StatsFlushOnAdmin(true))) {
            return Self::OnAdmin;
        }
        // The rules of the field keep it between 1 ms and 300 s.
        let interval = crate::config::listener::duration(config.stats_flush_interval.as_ref());
        interval.map_or_else(Self::default, |interval| {
            Self::Every(interval.max(Duration::from_millis(1)))
        })
    }
}

/// `stats_matcher`: asked with a stat's full name, before tags are cut out of it.
#[derive(Clone, Debug, Default)]
pub enum StatsMatcher {
    #[default]
    All,
    None,
    AllBut(Vec<StringMatcher>),
    Only(Vec<StringMatcher>),
}

impl StatsMatcher {
    /// Whether a reader may see the stat.
    pub fn accepts(&self, name: &str) -> bool {
        let any = |list: &[StringMatcher]| list.iter().any(|matcher| matcher.matches(name.as_bytes()));
        match self {
            Self::All => true,
            Self::None => false,
            Self::AllBut(list) => !any(list),
            Self::Only(list) => any(list),
        }
    }

    fn compile(config: &pb::StatsMatcher) -> Compiled<Self> {
        Ok(match &config.stats_matcher {
            Some(Oneof::RejectAll(true)) => Self::None,
            Some(Oneof::RejectAll(false)) => Self::All,
            Some(Oneof::ExclusionList(list)) => {
                Self::AllBut(each("patterns", &list.patterns, StringMatcher::compile).under("exclusion_list")?)
            }
            Some(Oneof::InclusionList(list)) => {
                Self::Only(each("patterns", &list.patterns, StringMatcher::compile).under("inclusion_list")?)
            }
            None => return Err(Problems::one("stats_matcher", "required")),
        })
    }
}

impl StatsConfig {
    /// `flags`: `--stats-tag`.
    pub(super) fn compile(bootstrap: &Bootstrap, flags: &[(String, String)]) -> Compiled<Self> {
        let config = bootstrap.stats_config.as_ref();
        let defaults = config.and_then(|config| config.use_all_default_tags);
        let mut tags = TagRules::new(defaults.is_none_or(|all| all.value));
        for (tag, value) in flags {
            tags.add_fixed(tag, value);
        }
        let mut problems = Problems::default();
        let specifiers = config.map_or(&[][..], |config| &config.stats_tags);
        for (index, specifier) in specifiers.iter().enumerate() {
            let tag = specifier.tag_name.as_str();
            let added = match &specifier.tag_value {
                Some(TagValue::Regex(regex)) => tags
                    .add_regex(tag, regex)
                    .map_err(|error| Problems::one("regex", error.to_string())),
                Some(TagValue::FixedValue(value)) => {
                    tags.add_fixed(tag, value);
                    Ok(())
                }
                // A name alone asks for one of the default rules, which is in force anyway.
                None if defaults.is_none_or(|all| all.value) => Ok(()),
                None => {
                    let reason = "a default tag by its name is not supported without use_all_default_tags";
                    Err(Problems::one("tag_value", reason))
                }
            };
            problems.keep(added.under(&format!("stats_tags[{index}]")));
        }
        let settings = config.map_or(&[][..], |config| &config.histogram_bucket_settings);
        let buckets = problems.keep(Buckets::compile(settings));
        let matcher = config.and_then(|config| config.stats_matcher.as_ref());
        let matcher = problems.keep(optional("stats_matcher", matcher, StatsMatcher::compile));
        problems.into_result().map(|()| Self {
            flush: Flush::of(bootstrap),
            tags,
            matcher: matcher.flatten().unwrap_or_default(),
            buckets: buckets.unwrap_or_default(),
        })
    }
}
