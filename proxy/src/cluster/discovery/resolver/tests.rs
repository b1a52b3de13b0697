use std::net::Ipv4Addr;

use tokio::net::UdpSocket;

use super::*;
use crate::runtime::spawn::spawn;

/// A name server that answers every question for an IPv4 address by `answer`, or never.
async fn name_server(answer: Option<Ipv4Addr>, asked: Arc<AtomicUsize>) -> SocketAddr {
    serve(answer.map(Ok), asked).await
}

/// The same; instead of an address, it may have a code to say (RFC 1035 section 4.1.1).
async fn serve(answer: Option<Result<Ipv4Addr, u8>>, asked: Arc<AtomicUsize>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    spawn("name server", async move {
        let mut question = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut question).await {
            asked.fetch_add(1, Ordering::Relaxed);
            let Some(answer) = answer else { continue };
            let name = question[12..length].iter().position(|byte| *byte == 0).unwrap();
            let mut reply = question[..12 + name + 5].to_vec();
            // A response, recursion available; one question, one answer or none, nothing else.
            let (code, answers) = match answer {
                Ok(_) => (0, 1),
                Err(code) => (code, 0),
            };
            reply[2..12].copy_from_slice(&[0x81, 0x80 | code, 0, 1, 0, answers, 0, 0, 0, 0]);
            if let Ok(address) = answer {
                reply.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4]);
                reply.extend(address.octets());
            }
            socket.send_to(&reply, from).await.unwrap();
        }
    });
    address
}

fn of(servers: Vec<SocketAddr>) -> NameServers {
    NameServers {
        servers,
        timeout: Duration::from_millis(300),
        tries: 2,
        ..NameServers::default()
    }
}

async fn resolved(resolver: &dyn Resolve) -> Vec<IpAddr> {
    resolver.resolve("svc.test", false).await.unwrap().addresses
}

#[tokio::test]
async fn the_servers_of_the_configuration_are_asked_in_their_order() {
    let asked: [Arc<AtomicUsize>; 2] = Default::default();
    let [one, two] = [Ipv4Addr::new(10, 1, 1, 1), Ipv4Addr::new(10, 2, 2, 2)];
    let servers = vec![
        name_server(Some(one), asked[0].clone()).await,
        name_server(Some(two), asked[1].clone()).await,
    ];
    let in_order = build(Some(&ResolverConfig::NameServers(of(servers.clone())))).unwrap();
    let answer = in_order.resolve("svc.test", false).await.unwrap();
    assert_eq!(answer.addresses, [IpAddr::from(one)]);
    assert!(answer.ttl > Duration::from_secs(28) && answer.ttl <= Duration::from_secs(30));
    assert_eq!(resolved(&*in_order).await, [IpAddr::from(one)]);
    assert_eq!(asked[1].load(Ordering::Relaxed), 0);
    let turns = NameServers {
        rotates: true,
        ..of(servers)
    };
    let in_turn = build(Some(&ResolverConfig::NameServers(turns))).unwrap();
    let answers = [
        resolved(&*in_turn).await,
        resolved(&*in_turn).await,
        resolved(&*in_turn).await,
    ];
    assert_eq!(answers, [[one], [two], [one]].map(|address| address.map(IpAddr::from)));
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_not_asked_first_again() {
    let asked: [Arc<AtomicUsize>; 2] = Default::default();
    let good = Ipv4Addr::new(10, 2, 2, 2);
    let servers = vec![
        name_server(None, asked[0].clone()).await,
        name_server(Some(good), asked[1].clone()).await,
    ];
    let resolver = build(Some(&ResolverConfig::NameServers(of(servers)))).unwrap();
    assert_eq!(resolved(&*resolver).await, [IpAddr::from(good)]);
    let silent = asked[0].load(Ordering::Relaxed);
    assert!(silent >= 1);
    assert_eq!(resolved(&*resolver).await, [IpAddr::from(good)]);
    assert_eq!(asked[0].load(Ordering::Relaxed), silent);
}

#[tokio::test]
async fn that_there_is_no_such_name_is_an_answer_and_that_the_server_failed_is_none() {
    const SERVER_FAILURE: u8 = 2;
    const NO_SUCH_NAME: u8 = 3;
    let asked: [Arc<AtomicUsize>; 3] = Default::default();
    let spare = Ipv4Addr::new(10, 3, 3, 3);
    let servers = [
        serve(Some(Err(NO_SUCH_NAME)), asked[0].clone()).await,
        serve(Some(Err(SERVER_FAILURE)), asked[1].clone()).await,
        serve(Some(Ok(spare)), asked[2].clone()).await,
    ];
    let asking = |order: &[usize]| {
        let servers = order.iter().map(|index| servers[*index]).collect();
        build(Some(&ResolverConfig::NameServers(of(servers)))).unwrap()
    };
    assert_eq!(
        resolved(&*asking(&[0, 2])).await,
        [] as [IpAddr; 0],
        "nobody else is asked"
    );
    assert_eq!(asked[2].load(Ordering::Relaxed), 0);
    assert!(asking(&[1]).resolve("svc.test", false).await.is_err());
    assert_eq!(resolved(&*asking(&[1, 2])).await, [IpAddr::from(spare)]);
}

#[tokio::test]
async fn nobody_answers_and_that_ends() {
    let asked: Arc<AtomicUsize> = Arc::default();
    let silent = name_server(None, asked.clone()).await;
    let resolver = build(Some(&ResolverConfig::NameServers(of(vec![silent])))).unwrap();
    let started = clock::now();
    assert!(resolver.resolve("svc.test", false).await.is_err());
    let took = clock::now() - started;
    assert!(took >= Duration::from_millis(550), "two tries of 300 ms, not {took:?}");
}

#[tokio::test]
async fn the_c_library_knows_this_machine() {
    let resolver = build(Some(&ResolverConfig::GetAddrInfo { retries: Some(0) })).unwrap();
    let answer = resolver.resolve("localhost", false).await.unwrap();
    assert_eq!(answer.addresses, [IpAddr::from(Ipv4Addr::LOCALHOST)]);
    assert_eq!(answer.ttl, Duration::from_secs(60));
    assert!(resolver.resolve("a\0b", false).await.is_err());
}
