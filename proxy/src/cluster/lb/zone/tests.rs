use super::*;

fn zone(name: &str) -> Locality {
    Locality {
        zone: name.to_owned(),
        ..Locality::default()
    }
}

fn shares(counts: &[(&str, u64)]) -> Vec<Share> {
    let share = |(name, hosts): &(&str, u64)| Share {
        locality: Arc::new(zone(name)),
        hosts: *hosts,
        weight: 3 * hosts,
    };
    counts.iter().map(share).collect()
}

fn division(upstream: &[(&str, u64)], local: &[(&str, u64)], config: ZoneAware) -> Result<Division, &'static str> {
    let peers = Peers {
        localities: shares(local),
        ..Peers::default()
    };
    divide(&shares(upstream), &peers, Some(&zone("a")), &config).map_err(|verdict| match verdict {
        Zones::Off => "off",
        Zones::LocalNotOk => "local not ok",
        Zones::TooSmall => "too small",
        Zones::On(_) => "on",
    })
}

fn residual(own: u64, room: &[u64]) -> Result<Division, &'static str> {
    let room = room.to_vec();
    Ok(Division::Residual { own, room })
}

#[test]
fn requests_are_divided_as_in_envoys_example() {
    // Local 40/40/20 %, upstream 25/50/25 %: 62.5 % stay, the others go to the second and third in ratio 10:5.
    let local = [("a", 4), ("b", 4), ("c", 2)];
    let upstream = [("a", 2), ("b", 4), ("c", 2)];
    let got = division(&upstream, &local, ZoneAware::default());
    assert_eq!(got, residual(6250, &[0, 1000, 1500]));
    let got = got.expect("a division");
    assert_eq!([0, 1, 2].map(|index| got.share(index)), [6250, 2500, 1250]);
}

#[test]
fn a_locality_that_can_takes_all_of_its_own() {
    let config = ZoneAware::default();
    let even = [("a", 3), ("b", 3)];
    assert_eq!(division(&even, &even, config), Ok(Division::Direct));
    assert_eq!(division(&[("a", 4), ("b", 3)], &even, config), Ok(Division::Direct));
    // Nobody healthy there: everything goes to where there is room.
    assert_eq!(division(&[("a", 0), ("b", 6)], &even, config), residual(0, &[0, 5000]));
    // No host there at all.
    assert_eq!(division(&[("b", 3), ("c", 3)], &even, config), residual(0, &[0, 5000]));
}

#[test]
fn localities_do_not_count_where_they_cannot() {
    let config = ZoneAware::default();
    let even = [("a", 3), ("b", 3)];
    assert_eq!(division(&[("a", 9)], &even, config), Err("off"));
    assert_eq!(division(&even, &[("a", 2)], config), Err("off"));
    assert_eq!(division(&even, &[("b", 2), ("c", 1)], config), Err("local not ok"));
    assert_eq!(division(&[("a", 3), ("b", 2)], &even, config), Err("too small"));
    let small = ZoneAware {
        min_cluster_size: 5,
        ..config
    };
    assert_eq!(division(&[("a", 3), ("b", 2)], &even, small), Ok(Division::Direct));
}

#[test]
fn the_own_locality_can_be_forced() {
    let forced = |least| ZoneAware {
        force_local: Some(least),
        ..ZoneAware::default()
    };
    let upstream = [("a", 1), ("b", 9)];
    assert_eq!(division(&upstream, &[("a", 1)], forced(1)), Ok(Division::Direct));
    // Too few: as if nothing was forced.
    assert_eq!(division(&upstream, &[("a", 1)], forced(2)), residual(1000, &[0, 9000]));
}

#[test]
fn draws_fall_on_the_room_that_there_is() {
    let stats = ClusterStats::default();
    let division = residual(6250, &[0, 1000, 1500]).expect("a division");
    let choose = |draws: &[u64]| {
        let mut draws = draws.iter();
        division.choose(3, &stats, &mut || *draws.next().expect("a draw"))
    };
    assert_eq!(choose(&[6249]), 0);
    assert_eq!(choose(&[6250, 0]), 1);
    assert_eq!(choose(&[9999, 999]), 1);
    assert_eq!(choose(&[16_250, 1000]), 2);
    assert_eq!(choose(&[9999, 1499]), 2);
    assert_eq!(stats.lb_zone_routing_sampled.value(), 1);
    assert_eq!(stats.lb_zone_routing_cross_zone.value(), 4);
    let full = residual(9999, &[0, 0]).expect("a division");
    let mut draws = [9999, 3].into_iter();
    assert_eq!(full.choose(2, &stats, &mut || draws.next().expect("a draw")), 1);
    assert_eq!(stats.lb_zone_no_capacity_left.value(), 1);
}
