//! Messages of the wire and what becomes of them.

use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::task::{Assignment, Progress, Report};
use ip2p_proto::v1;
use prost::Message;

/// Decodes the bytes as every message, and converts what can be decoded. What is refused is refused in words.
pub fn messages(data: &[u8]) {
    if let Ok(request) = v1::RegisterRequest::decode(data) {
        assert!(ip2p_proto::one_line(request.device, 200).len() <= 200);
        let _ = ip2p_proto::wanted(&request.stages, request.only);
    }
    if let Ok(response) = v1::RegisterResponse::decode(data) {
        let _ = ip2p_proto::stages(&response.open_stages);
        let _ = serde_json::from_str::<Plan>(&response.plan_json);
    }
    if let Ok(v1::LeaseResponse { answer: Some(v1::lease_response::Answer::Assignment(assignment)) }) = v1::LeaseResponse::decode(data) {
        let _ = Assignment::try_from(assignment);
    }
    if let Ok(v1::HeartbeatRequest { progress: Some(progress), .. }) = v1::HeartbeatRequest::decode(data)
        && let Ok(progress) = Progress::try_from(progress)
    {
        // As the coordinator sums over ten thousand workers.
        assert!(progress.units.checked_mul(10_000).is_some() && progress.done.checked_mul(10_000).is_some());
    }
    let reported = v1::ReportRequest::decode(data).ok().and_then(|request| request.report);
    let asked = v1::LeaseRequest::decode(data).ok().and_then(|request| request.report);
    for report in reported.into_iter().chain(asked) {
        if let Ok(Report { outcome: Ok(finished), .. }) = Report::try_from(report) {
            finished.counts.balanced();
            assert!(finished.seconds.is_finite());
        }
    }
    if let Ok(request) = v1::UnfitRequest::decode(data) {
        let _ = ip2p_proto::failed(request.failed);
    }
    let _ = v1::HeartbeatResponse::decode(data);
    let _ = v1::ReportResponse::decode(data);
}
