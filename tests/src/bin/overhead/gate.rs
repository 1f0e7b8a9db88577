//! Keeps workers that have started from working until all have, so that a measurement begins with all of them ready.

use std::path::Path;
use std::time::Duration;

/// How often a worker looks whether it may begin.
const LOOK: Duration = Duration::from_millis(5);

/// Says that `worker` is ready, in the folder `gate`, and waits until someone creates the file `go` there.
pub async fn pass(gate: &Path, worker: &str) -> std::io::Result<()> {
    std::fs::write(gate.join(format!("ready-{worker}")), "")?;
    while !gate.join("go").exists() {
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
