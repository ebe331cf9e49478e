//! Names and numbers: streams, sources, domains, sites and lanes keep theirs for
//! as long as the process runs, over reloads too.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use postkeep_configuration::Configuration;
use postkeep_deliverability::governor;
use postkeep_deliverability::provider::ProviderTable;
use smallvec::SmallVec;

use super::{Domain, Lane, LaneId, Resolution, Site, SiteId, SourcePlan, State};
use crate::clock::Micros;
use crate::engine::plan::{PoolPlan, SourceId, StreamPlan};
use crate::engine::rules::Rules;
use crate::queue::{DomainId, StreamId};

/// Stands between the names of a stream and of the pool that its mail chose; no name has it.
const CHOSEN: char = '\0';

impl State {
    pub(crate) fn stream_id(&self, name: &str) -> Option<StreamId> {
        self.stream_ids.get(name).copied()
    }

    /// The number of a stream; of `default` when the configuration has lost it.
    pub(crate) fn stream_or_default(&self, name: &str) -> StreamId {
        self.stream_id(name).or_else(|| self.stream_id("default")).unwrap_or(StreamId(0))
    }

    /// The number of a stream for mail that chose a pool or source of its own. Such mail has queues of its own, and
    /// counts as its stream's wherever a stream counts. A pool that is gone meanwhile is as if none had been chosen.
    pub(crate) fn stream_with_pool(&mut self, name: &str, pool: Option<&str>, now: Micros) -> StreamId {
        let stream = self.stream_or_default(name);
        let Some(pool) = pool else { return stream };
        let name = Arc::clone(&self.stream(stream).0);
        let key = format!("{name}{CHOSEN}{pool}");
        if let Some(id) = self.stream_id(&key) {
            return id;
        }
        let configuration = Arc::clone(&self.rules.configuration);
        match PoolPlan::chosen(&configuration, pool, |source| self.source_id(source)) {
            Some(chosen) if self.streams.len() < usize::from(u16::MAX) => {
                let plan = StreamPlan { pool: Arc::new(chosen), ..(*self.stream(stream).1).clone() };
                self.set_stream_as(&key, &name, plan, now)
            }
            _ => stream,
        }
    }

    /// Takes over a configuration: sources, pools, streams and limits of known lanes.
    pub(crate) fn configure(&mut self, configuration: &Arc<Configuration>, providers: Arc<ProviderTable>, now: Micros) {
        self.rules = Rules { configuration: Arc::clone(configuration), providers };
        self.governor.configure(configuration.delivery.connections, (&configuration.backoff).into());
        for source in &mut self.sources {
            source.configured = false;
        }
        // Mail of a stream that is gone goes as the default stream's does.
        let fallback = StreamPlan::new(configuration, "default", |source| self.source_id(source));
        for index in 0..self.streams.len() {
            let name = Arc::clone(&self.streams[index].0);
            self.set_stream(&name, fallback.clone(), now);
        }
        for (name, settings) in &configuration.source {
            let id = self.source_id(name);
            let plan = &mut self.sources[usize::from(id.0)];
            if plan.settings != *settings {
                plan.out_until = 0;
            }
            plan.settings = settings.clone();
            plan.ehlo = configuration.ehlo_of(name).into();
            plan.configured = true;
        }
        let names: Vec<String> = configuration.stream_names().map(str::to_owned).collect();
        for name in names {
            let plan = StreamPlan::new(configuration, &name, |source| self.source_id(source));
            self.set_stream(&name, plan, now);
        }
        self.choose_pools_again(configuration, now);
        for index in 0..self.lanes.len() {
            let lane = &self.lanes[index];
            let (source, site) = (&self.sources[usize::from(lane.source.0)].name, &self.sites[lane.site.0 as usize]);
            let (governed, limits) =
                self.rules.lane(&mut self.governor, source, &site.name, site.provider.as_deref(), now);
            let lane = &mut self.lanes[index];
            (lane.governor, lane.limits, lane.forgotten) = (governed, limits, false);
            // Idle connections look whether they are still wanted.
            lane.wake_idle();
        }
    }

    /// Mail that chose a pool goes by the new plan of its stream, from the pool as it is now.
    fn choose_pools_again(&mut self, configuration: &Configuration, now: Micros) {
        let keys: Vec<Arc<str>> = self.stream_ids.keys().filter(|key| key.contains(CHOSEN)).map(Arc::clone).collect();
        for key in keys {
            let Some((name, pool)) = key.split_once(CHOSEN) else { continue };
            let mut plan = (*self.stream(self.stream_or_default(name)).1).clone();
            match PoolPlan::chosen(configuration, pool, |source| self.source_id(source)) {
                Some(chosen) => plan.pool = Arc::new(chosen),
                None => {
                    log::warn!("mail of stream {name} chose {pool}, which is gone; it leaves from the stream's pool")
                }
            }
            self.set_stream_as(&key, name, plan, now);
        }
    }

    /// Adds a stream or replaces its plan.
    pub(crate) fn set_stream(&mut self, name: &str, plan: StreamPlan, now: Micros) -> StreamId {
        self.set_stream_as(name, name, plan, now)
    }

    /// The same under a key that is not its name.
    fn set_stream_as(&mut self, key: &str, name: &str, plan: StreamPlan, now: Micros) -> StreamId {
        let governed = self.governor.stream_id(name, &plan.settings.total, now);
        let plan = Arc::new(plan);
        if let Some(id) = self.stream_ids.get(key) {
            let place = &mut self.streams[usize::from(id.0)];
            place.1 = plan;
            place.2 = governed;
            return *id;
        }
        let id = StreamId(self.streams.len() as u16);
        self.streams.push((name.into(), plan, governed));
        self.stream_ids.insert(key.into(), id);
        id
    }

    pub(crate) fn stream(&self, id: StreamId) -> &(Arc<str>, Arc<StreamPlan>, governor::StreamId) {
        &self.streams[usize::from(id.0)]
    }

    /// The number of a source, new or known.
    pub(crate) fn source_id(&mut self, name: &str) -> SourceId {
        if let Some(id) = self.source_ids.get(name) {
            return *id;
        }
        let id = SourceId(self.sources.len() as u16);
        let name: Arc<str> = name.into();
        self.sources.push(SourcePlan {
            name: Arc::clone(&name),
            settings: postkeep_configuration::Source { ipv4: None, ipv6: None, ehlo: None, freebind: false },
            ehlo: "".into(),
            out_until: 0,
            suspended_until: 0,
            configured: false,
        });
        self.source_ids.insert(name, id);
        id
    }

    pub(crate) fn source(&self, id: SourceId) -> &SourcePlan {
        &self.sources[usize::from(id.0)]
    }

    pub(crate) fn domain_id(&mut self, name: &str) -> DomainId {
        if let Some(id) = self.domain_ids.get(name) {
            return *id;
        }
        let id = DomainId(self.next_domain);
        self.next_domain = self.next_domain.wrapping_add(1);
        let name: Arc<str> = name.into();
        self.domains
            .insert(id, Domain { name: Arc::clone(&name), resolution: Resolution::Unknown, queues: SmallVec::new() });
        self.domain_ids.insert(name, id);
        id
    }

    pub(crate) fn domain_name(&self, id: DomainId) -> Arc<str> {
        self.domains.get(&id).map_or_else(|| "".into(), |domain| Arc::clone(&domain.name))
    }

    pub(super) fn site_id(&mut self, name: &Arc<str>, provider: Option<Arc<str>>) -> SiteId {
        if let Some(id) = self.site_ids.get(name) {
            self.sites[id.0 as usize].provider = provider;
            return *id;
        }
        let id = SiteId(self.sites.len() as u32);
        self.sites.push(Site {
            name: Arc::clone(name),
            provider,
            active: VecDeque::new(),
            lanes: SmallVec::new(),
            taken: HashMap::new(),
            wake: Micros::MAX,
            waits_for_capacity: false,
        });
        self.site_ids.insert(Arc::clone(name), id);
        id
    }

    pub(crate) fn site(&self, id: SiteId) -> &Site {
        &self.sites[id.0 as usize]
    }

    pub(crate) fn lane(&self, id: LaneId) -> &Lane {
        &self.lanes[id.0 as usize]
    }

    pub(super) fn lane_id(&mut self, source: SourceId, site: SiteId, now: Micros) -> LaneId {
        let known = self.lane_ids.get(&(source, site)).copied();
        if let Some(id) = known
            && !self.lane(id).forgotten
        {
            return id;
        }
        let site_state = &self.sites[site.0 as usize];
        let source_name = &self.sources[usize::from(source.0)].name;
        let (governed, limits) =
            self.rules.lane(&mut self.governor, source_name, &site_state.name, site_state.provider.as_deref(), now);
        if let Some(id) = known {
            let lane = &mut self.lanes[id.0 as usize];
            (lane.governor, lane.limits, lane.forgotten) = (governed, limits, false);
            return id;
        }
        let id = LaneId(self.lanes.len() as u32);
        self.lanes.push(Lane {
            source,
            site,
            governor: governed,
            limits,
            open: 0,
            retiring: 0,
            forgotten: false,
            held_until: 0,
            took_at: 0,
            idle: Vec::new(),
        });
        self.lane_ids.insert((source, site), id);
        self.sites[site.0 as usize].lanes.push(id);
        id
    }
}
