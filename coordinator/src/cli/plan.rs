//! `plan`: what would run, without running it.

use super::{Exit, PipelineArgs};
use crate::forecast::{Forecast, forecast};

pub(super) async fn plan(args: PipelineArgs) -> Result<(), Exit> {
    let spec = args.load()?;
    let forecast: Forecast = forecast(spec).await?;
    #[expect(clippy::print_stdout, reason = "the forecast is the command's output")]
    {
        print!("{forecast}");
    }
    Ok(())
}
