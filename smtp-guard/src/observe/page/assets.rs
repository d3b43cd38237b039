//! Files of the page beside its text: in the binary, so that it needs neither a network nor a build step.
//!
//! uPlot is the file of the npm package `uplot`, as it was released; its name has the version, so browsers may keep it.

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// The version of uPlot; a test holds the files to it.
#[cfg(test)]
const UPLOT: &str = "1.6.32";

struct Asset {
    path: &'static str,
    kind: &'static str,
    content: &'static [u8],
    /// Its path never has another content.
    fixed: bool,
}

macro_rules! asset {
    ($path:literal, $kind:literal, $file:literal, $fixed:literal) => {
        Asset { path: $path, kind: $kind, content: include_bytes!($file), fixed: $fixed }
    };
}

static ASSETS: [Asset; 5] = [
    asset!("/page/page.css", "text/css; charset=utf-8", "assets/page.css", false),
    asset!("/page/page.js", "text/javascript; charset=utf-8", "assets/page.js", false),
    asset!("/page/icon.svg", "image/svg+xml", "assets/icon.svg", false),
    asset!("/page/uplot-1.6.32.css", "text/css; charset=utf-8", "uplot/uPlot.min.css", true),
    asset!("/page/uplot-1.6.32.js", "text/javascript; charset=utf-8", "uplot/uPlot.iife.min.js", true),
];

/// `router` with a route for each of them.
pub(super) fn routes(router: Router) -> Router {
    ASSETS.iter().fold(router, |router, asset| {
        let tag = format!("\"{:016x}\"", digest(asset.content));
        router.route(asset.path, get(async move |asked: HeaderMap| asset.answer(&asked, &tag)))
    })
}

impl Asset {
    fn answer(&self, asked: &HeaderMap, tag: &str) -> Response {
        let kept = if self.fixed { "public, max-age=31536000, immutable" } else { "no-cache" };
        let headers = [(header::CACHE_CONTROL, kept), (header::ETAG, tag), (header::CONTENT_TYPE, self.kind)];
        if asked.get(header::IF_NONE_MATCH).is_some_and(|known| known == tag) {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        (headers, self.content).into_response()
    }
}

/// Tells contents apart.
fn digest(content: &[u8]) -> u64 {
    use std::hash::Hasher as _;
    let mut hasher = siphasher::sip::SipHasher::new();
    hasher.write(content);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_for_ever_has_its_version_in_its_name() {
        let uplot: Vec<_> = ASSETS.iter().filter(|asset| asset.fixed).collect();
        assert_eq!(uplot.len(), 2);
        assert!(uplot.iter().all(|asset| asset.path.contains(UPLOT)));
        let script = uplot.iter().find(|asset| asset.path.ends_with(".js")).unwrap();
        assert!(String::from_utf8_lossy(script.content).contains(&format!("uPlot (v{UPLOT})")));
    }
}
