//! What the control plane sends: of what it was asked for, some; good and bad, new and old, with a time to live and without.

use std::collections::VecDeque;

use super::super::res;
use super::{Flight, IN_FLIGHT, Res, Sim, key};
use crate::client::mux::Mode;
use crate::engine::StreamId;
use crate::types::ResourceType;

impl Sim {
    /// Sends a response of `ty`, good or bad.
    pub(super) fn push(&mut self, id: StreamId, ty: ResourceType) {
        if !self.server.is_asked(id, ty) {
            self.push_unasked(id, ty);
            return;
        }
        if self.flights[&id].len() >= IN_FLIGHT {
            self.land_on(id);
            return;
        }
        let mut resources = self.server.current(id, ty, &mut self.rng, false);
        let vouched = self.vouch(id, ty, &mut resources);
        self.spoil(&mut resources);
        let mut removed = Vec::new();
        if self.server.mode == Mode::Delta {
            removed = self.server.gone(id, ty);
            if !ty.full_state && self.rng.u32(0..16) == 0 {
                removed = self.server.held(id, ty);
            }
            removed.retain(|name| self.rng.bool() && resources.iter().all(|resource| resource.name != *name));
        }
        if self.rng.u32(0..12) == 0 {
            resources.clear();
        }
        let twice = self.repeats(self.server.mode, ty, &resources);
        self.send(id, ty, resources, removed, twice);
        if let (Some(version), Some(flight)) = (vouched, self.flights.get_mut(&id).and_then(VecDeque::back_mut)) {
            flight.version = version;
        }
    }

    /// Makes some of the resources mortal and only vouches for others. Returns the version of a SotW response that vouches.
    fn vouch(&mut self, id: StreamId, ty: ResourceType, resources: &mut [Res]) -> Option<String> {
        let accepted = self.server.accepted(id, ty);
        let vouches = self.rng.u32(0..3) == 0;
        let wrongly = self.rng.u32(0..8) == 0;
        for resource in resources.iter_mut() {
            let mortal = self.rng.u32(0..3) == 0;
            let version = match self.server.mode {
                Mode::Sotw => accepted.clone(),
                Mode::Delta => self.server.version_of(id, ty, &resource.name),
            };
            let known = self.model.good.contains_key(&key(ty, &resource.name));
            if let Some(version) = version.filter(|_| vouches && known && self.rng.bool()) {
                let version = if wrongly { "of nothing" } else { &version };
                *resource = res(&resource.name, "").absent().version(version);
            }
            if mortal {
                *resource = resource.clone().ttl(self.rng.u64(1..40));
            }
        }
        let vouched = resources.iter().any(|resource| resource.absent) && !wrongly;
        accepted.filter(|_| vouched && self.server.mode == Mode::Sotw)
    }

    /// Whether the first resource comes twice, which is wrong in all that a delta response says, and in a whole set.
    pub(super) fn repeats(&mut self, mode: Mode, ty: ResourceType, resources: &[Res]) -> bool {
        let is_wrong = mode == Mode::Delta || ty.full_state;
        is_wrong && !resources.is_empty() && self.rng.u32(0..16) == 0
    }

    /// What nobody asked for must be ignored, without an answer.
    fn push_unasked(&mut self, id: StreamId, ty: ResourceType) {
        // It comes after what was sent before it, and what the client is about to ask for is not unasked.
        if !self.heard || !self.flights[&id].is_empty() {
            return;
        }
        let message = self.message(&Flight {
            ty,
            nonce: "unasked".into(),
            version: "unasked".into(),
            resources: vec![res("x", "1")],
            removed: Vec::new(),
            twice: false,
        });
        self.script.deliver(id, message);
    }

    /// Makes some of the resources bad.
    pub(super) fn spoil(&mut self, resources: &mut [Res]) {
        for resource in resources.iter_mut().filter(|resource| !resource.absent) {
            match self.rng.u32(0..10) {
                0 => resource.content = "BAD".into(),
                1 => *resource = resource.clone().foreign(),
                _ => continue,
            }
            // The server counts every attempt as a version of its own.
            resource.version = format!("bad-{}", self.count);
        }
    }

    pub(super) fn send(
        &mut self,
        id: StreamId,
        ty: ResourceType,
        resources: Vec<Res>,
        removed: Vec<String>,
        twice: bool,
    ) {
        self.count += 1;
        // One in eight comes with a nonce that was there before: the newest, or any of this connection.
        let again = match self.rng.u32(0..16) {
            0 => self.server.newest_nonce(id, ty),
            1 => self.server.any_nonce(id, ty, &mut self.rng),
            _ => None,
        };
        let nonce = again.unwrap_or_else(|| format!("n{}", self.count));
        self.server.sent(id, ty, &nonce);
        self.flights.entry(id).or_default().push_back(Flight {
            ty,
            nonce,
            version: format!("v{}", self.count),
            resources,
            removed,
            twice,
        });
    }

    /// Sends all that the server has of what this stream asks for.
    pub(super) fn push_all(&mut self, id: StreamId, ty: ResourceType) {
        let resources = self.server.current(id, ty, &mut self.rng, true);
        let removed = match self.server.mode {
            Mode::Delta => self.server.gone(id, ty),
            Mode::Sotw => Vec::new(),
        };
        self.send(id, ty, resources, removed, false);
        self.land_on(id);
        self.listen();
        self.check();
    }
}
