//! The demo's tour is a test too: a whole mesh in one process, every answer checked.

use remora::demo::{Event, Settings, scenes};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_scene_holds_and_no_request_fails() {
    let settings = Settings {
        concurrency: 1,
        ..Settings::default()
    };
    let mut told = Vec::new();
    let report = scenes(&settings, &mut |event| {
        if let Event::Ended(scene) = event {
            told.push(scene.title);
        }
    })
    .await
    .unwrap();
    for scene in &report.scenes {
        assert!(
            scene.held,
            "{}: {:#?}\n{:#?}",
            scene.title, scene.evidence, report.failures
        );
        assert!(scene.requests > 0 && !scene.evidence.is_empty(), "{scene:?}");
    }
    assert_eq!(told.len(), 8);
    assert_eq!((report.failed(), report.failures.as_slice()), (0, [].as_slice()));
    assert!(report.is_good());
}
