//! Consistent hashing: Envoy's ring (ketama) and Maglev tables, bit for bit, so that both proxies send a key to the same host.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use smallvec::SmallVec;
use xxhash_rust::xxh64::xxh64;

use crate::cluster::bugs::{Bug, planted};
use crate::cluster::host::Host;

/// `RingHashLbConfig`.
#[derive(Clone, Debug, PartialEq)]
pub struct RingHash {
    pub function: HashFunction,
    /// Envoy's default: 1024.
    pub minimum_ring_size: u64,
    /// Envoy's default and maximum: 8 Mi.
    pub maximum_ring_size: u64,
    pub common: ConsistentHash,
}

/// What places hosts on a ring. Requests are always looked up by xxHash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashFunction {
    #[default]
    XxHash,
    /// `MURMUR_HASH_2`: libstdc++'s `std::hash`.
    Murmur2,
}

/// `MaglevLbConfig`.
#[derive(Clone, Debug, PartialEq)]
pub struct Maglev {
    /// A prime; Envoy's default is 65537.
    pub table_size: u64,
    pub common: ConsistentHash,
}

/// `ConsistentHashingLbConfig`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConsistentHash {
    pub use_hostname_for_hashing: bool,
    /// Percent of the average load that a host may have; unset is no bound.
    pub hash_balance_factor: Option<u32>,
}

/// What a hash is looked up in.
pub struct Table {
    slots: Slots,
    /// Share of the weight per host, for the bound; empty without one.
    shares: Vec<f64>,
    balance_factor: u32,
}

enum Slots {
    /// (hash, host), by hash.
    Ring(Vec<(u64, u32)>),
    Maglev(Vec<u32>),
}

impl Table {
    pub fn ring(config: &RingHash, hosts: &[Arc<Host>], weights: &[f64]) -> Self {
        let weights = normalised(weights);
        let ring = ring(config, hosts, &weights);
        Self::new(Slots::Ring(ring), &config.common, weights)
    }

    pub fn maglev(config: &Maglev, hosts: &[Arc<Host>], weights: &[f64]) -> Self {
        let weights = normalised(weights);
        let table = maglev(config, hosts, &weights);
        Self::new(Slots::Maglev(table), &config.common, weights)
    }

    fn new(slots: Slots, common: &ConsistentHash, weights: Vec<f64>) -> Self {
        Self {
            slots,
            shares: match common.hash_balance_factor {
                Some(_) => weights,
                None => Vec::new(),
            },
            balance_factor: common.hash_balance_factor.unwrap_or(0),
        }
    }

    /// Index of the host for `hash`; re-selections go on to others. `total` requests are under way in the whole cluster: a bound is a share of
    /// these, whether or not their hosts are among these ones.
    pub fn pick(&self, hash: u64, attempt: u32, hosts: &[Arc<Host>], total: u64) -> Option<usize> {
        let hash = match planted(Bug::Reshuffles) {
            true => hash.rotate_left(hosts.len() as u32),
            false => hash,
        };
        let index = self.look_up(hash, attempt)?;
        match self.shares.is_empty() || self.overload(index, total, hosts) <= 1.0 {
            true => Some(index),
            false => self.bounded(hash, index, hosts, total),
        }
    }

    /// Entries, and the fewest and the most that one of so many hosts has.
    pub fn shape(&self, hosts: usize) -> (u64, u64, u64) {
        let mut counts = vec![0_u64; hosts];
        let mut count = |index: u32| {
            if let Some(count) = counts.get_mut(index as usize) {
                *count += 1;
            }
        };
        let size = match &self.slots {
            Slots::Ring(ring) => {
                ring.iter().for_each(|(_, index)| count(*index));
                ring.len()
            }
            Slots::Maglev(table) => {
                table.iter().for_each(|index| count(*index));
                table.len()
            }
        };
        let (least, most) = (counts.iter().min(), counts.iter().max());
        (size as u64, least.copied().unwrap_or(0), most.copied().unwrap_or(0))
    }

    fn look_up(&self, hash: u64, attempt: u32) -> Option<usize> {
        match &self.slots {
            Slots::Ring(ring) if ring.is_empty() => None,
            Slots::Ring(ring) => {
                let at = ring.partition_point(|(entry, _)| *entry < hash) % ring.len();
                Some(ring[(at + attempt as usize) % ring.len()].1 as usize)
            }
            Slots::Maglev(table) if table.is_empty() => None,
            Slots::Maglev(table) => {
                let hash = match attempt {
                    0 => hash,
                    _ => hash ^ (!0 - u64::from(attempt) + 1),
                };
                Some(table[(hash % table.len() as u64) as usize] as usize)
            }
        }
    }

    /// The hash's own order of the hosts, as Envoy shuffles them: the first one under its bound, the least overloaded if none is.
    fn bounded(&self, hash: u64, own: usize, hosts: &[Arc<Host>], total: u64) -> Option<usize> {
        let mut best = (self.overload(own, total, hosts), own);
        // Large clusters alone allocate here, and only for a host that has too much to do.
        let mut order: SmallVec<[u32; 128]> = (0..hosts.len() as u32).collect();
        let mut random = Twister::new(hash as u32);
        for step in 0..order.len() {
            let other = step + random.below((order.len() - step) as u32) as usize;
            order.swap(step, other);
            let candidate = order[step] as usize;
            if candidate == own {
                continue;
            }
            let overload = self.overload(candidate, total, hosts);
            if overload <= 1.0 {
                return Some(candidate);
            }
            if overload < best.0 {
                best = (overload, candidate);
            }
        }
        Some(best.1)
    }

    /// Active requests over what the host may have of `total`: its share, times the factor, rounded up twice. Envoy's `hostOverloadFactor`.
    fn overload(&self, index: usize, total: u64, hosts: &[Arc<Host>]) -> f64 {
        let share = self.shares.get(index).copied().unwrap_or(0.0);
        let slots = (total + 1).saturating_mul(u64::from(self.balance_factor));
        let own = (slots.div_ceil(100) as f64 * share).ceil().max(1.0);
        hosts.get(index).map_or(f64::MAX, |host| f64::from(active(host)) / own)
    }
}

fn active(host: &Arc<Host>) -> u32 {
    host.state.rq_active.load(Ordering::Relaxed)
}

fn normalised(weights: &[f64]) -> Vec<f64> {
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

fn ring(config: &RingHash, hosts: &[Arc<Host>], weights: &[f64]) -> Vec<(u64, u32)> {
    // A host without weight has no entry.
    let smallest = weights
        .iter()
        .copied()
        .filter(|weight| *weight > 0.0)
        .fold(1.0, f64::min);
    if weights.iter().all(|weight| *weight <= 0.0) {
        return Vec::new();
    }
    // Enough entries that the lightest host has a whole number of them and the ring its minimum size, or the maximum size.
    let scale = ((smallest * config.minimum_ring_size as f64).ceil() / smallest).min(config.maximum_ring_size as f64);
    let mut ring = Vec::with_capacity(scale.ceil() as usize);
    let (mut current, mut target) = (0.0, 0.0);
    let mut text = Vec::with_capacity(64);
    for (index, (host, weight)) in hosts.iter().zip(weights).enumerate() {
        let key = hash_key(host, &config.common);
        target += scale * weight;
        let mut replica: u64 = 0;
        while current < target {
            text.clear();
            // Writing to a vector cannot fail.
            let _ = write!(text, "{key}_{replica}");
            ring.push((config.function.of(&text), index as u32));
            replica += 1;
            current += 1.0;
        }
    }
    ring.sort_unstable_by_key(|(hash, _)| *hash);
    ring
}

impl HashFunction {
    fn of(self, text: &[u8]) -> u64 {
        match self {
            Self::XxHash => xxh64(text, 0),
            Self::Murmur2 => murmur2(text),
        }
    }
}

/// MurmurHash64A with the seed of libstdc++'s `std::hash`.
fn murmur2(text: &[u8]) -> u64 {
    const SEED: u64 = 0xc70f_6907;
    const FACTOR: u64 = 0xc6a4_a793_5bd1_e995;
    let mut hash = SEED ^ (text.len() as u64).wrapping_mul(FACTOR);
    let (words, rest) = text.as_chunks::<8>();
    for word in words {
        let mut word = u64::from_le_bytes(*word).wrapping_mul(FACTOR);
        word ^= word >> 47;
        hash = (hash ^ word.wrapping_mul(FACTOR)).wrapping_mul(FACTOR);
    }
    if !rest.is_empty() {
        let last = rest.iter().rev().fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
        hash = (hash ^ last).wrapping_mul(FACTOR);
    }
    hash ^= hash >> 47;
    hash = hash.wrapping_mul(FACTOR);
    hash ^ (hash >> 47)
}

/// Unfilled slots while a Maglev table is made.
const EMPTY: u32 = u32::MAX;

fn maglev(config: &Maglev, hosts: &[Arc<Host>], weights: &[f64]) -> Vec<u32> {
    let size = config.table_size;
    let heaviest = weights.iter().copied().fold(0.0, f64::max);
    if hosts.is_empty() || heaviest <= 0.0 || size < 2 {
        return Vec::new();
    }
    struct Turn {
        host: u32,
        weight: f64,
        target: f64,
        at: u64,
        skip: u64,
    }
    let mut keyed: Vec<(String, usize)> = hosts
        .iter()
        .enumerate()
        .map(|(index, host)| (hash_key(host, &config.common), index))
        .collect();
    keyed.sort();
    let mut turns: Vec<Turn> = keyed
        .iter()
        .map(|(key, index)| Turn {
            host: *index as u32,
            weight: weights[*index],
            target: 0.0,
            at: xxh64(key.as_bytes(), 0) % size,
            skip: xxh64(key.as_bytes(), 1) % (size - 1) + 1,
        })
        .collect();
    let mut table = vec![EMPTY; size as usize];
    let mut filled = 0;
    let mut round: u64 = 1;
    while filled < size {
        for turn in &mut turns {
            if filled == size {
                break;
            }
            // Lighter hosts sit rounds out: one takes its turn when its weight has caught up with the heaviest.
            if (round as f64) * turn.weight < turn.target {
                continue;
            }
            turn.target += heaviest;
            while table[turn.at as usize] != EMPTY {
                turn.at = (turn.at + turn.skip) % size;
            }
            table[turn.at as usize] = turn.host;
            turn.at = (turn.at + turn.skip) % size;
            filled += 1;
        }
        round += 1;
    }
    table
}

/// The Mersenne Twister `mt19937`, by which Envoy shuffles hosts: the same seed is to give the same order.
struct Twister {
    state: [u32; 624],
    at: usize,
}

impl Twister {
    fn new(seed: u32) -> Self {
        let mut state = [seed; 624];
        for index in 1..624 {
            let before = state[index - 1];
            state[index] = (before ^ (before >> 30))
                .wrapping_mul(1_812_433_253)
                .wrapping_add(index as u32);
        }
        Self { state, at: 624 }
    }

    fn next(&mut self) -> u32 {
        if self.at == 624 {
            for index in 0..624 {
                let joined = (self.state[index] & 0x8000_0000) | (self.state[(index + 1) % 624] & 0x7fff_ffff);
                let twist = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[index] = self.state[(index + 397) % 624] ^ (joined >> 1) ^ twist;
            }
            self.at = 0;
        }
        let mut word = self.state[self.at];
        self.at += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// Uniform in `0..bound`.
    fn below(&mut self, bound: u32) -> u32 {
        let bucket = (1u64 << 32) / u64::from(bound.max(1));
        loop {
            let drawn = u64::from(self.next()) / bucket;
            if drawn < u64::from(bound) || bound == 0 {
                return drawn as u32;
            }
        }
    }
}

/// What stands for a host: `envoy.lb: hash_key` of its metadata, its hostname, or its address.
fn hash_key(host: &Host, common: &ConsistentHash) -> String {
    use remora_proto::pb::google::protobuf::value::Kind;
    let from_metadata = host
        .metadata
        .as_ref()
        .and_then(|metadata| metadata.filter_metadata.get("envoy.lb")?.fields.get("hash_key"));
    if let Some(Kind::StringValue(key)) = from_metadata.and_then(|value| value.kind.as_ref())
        && !key.is_empty()
    {
        return key.clone();
    }
    match common.use_hostname_for_hashing && !host.hostname.is_empty() {
        true => host.hostname.to_string(),
        false => host.address.to_string(),
    }
}

#[cfg(test)]
mod tests;
