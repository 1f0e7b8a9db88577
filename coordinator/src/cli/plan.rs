//! `plan`: what would run, without running it.

use super::{Exit, PipelineArgs, say};
use crate::forecast::{Forecast, forecast};

pub(super) async fn plan(args: PipelineArgs) -> Result<(), Exit> {
    let spec = args.load()?;
    let forecast: Forecast = forecast(spec).await?;
    say(forecast)
}
