//! InstructPix2Pix inference: from the given picture to the written bytes.

use candle_core::Tensor;
use ip2p_worker::diffusion::edit::{Edit, Guidance, load};
use ip2p_worker::images::Rgb8;
use ip2p_worker::models::unet::Rows;
use ip2p_worker::models::vae::{each_image, to_unit};
use serde::Deserialize;

use super::place::{case, runs};
use super::support::{Reference, assert_bytes, json, max_difference};
use super::{unet, vae};

#[derive(Deserialize)]
struct Params {
    resolution: u32,
    steps: usize,
    cfg_text: f64,
    cfg_image: f64,
}

#[test]
fn golden_edit() {
    // It uses the autoencoder of vae.
    let (Some(folder), Some(vae_folder)) = (case("edit"), case("vae")) else { return };
    let vae = vae::load(&vae_folder, &vae_folder.join("vae_diffusers.safetensors"));
    let runs = runs("edit", "io");
    for (_, unet) in unet::all(&folder) {
        for run in &runs {
            let ending = run.file_stem().unwrap().to_str().unwrap().trim_start_matches("io").to_string();
            let own = folder.join(format!("params{ending}.json"));
            let params: Params = json(&if own.is_file() { own } else { folder.join("params.json") });
            check(&unet, &vae, &Reference::open(run), &params);
        }
    }
}

fn check(unet: &ip2p_worker::models::UNet, vae: &ip2p_worker::models::Vae, io: &Reference, params: &Params) {
    let (height, width, _) = io.get("input_image_u8").dims3().unwrap();
    let given = Rgb8 { width: width as u32, height: height as u32, bytes: io.bytes("input_image_u8") };
    let (fitted, image) = load(&given, params.resolution).unwrap();
    assert_bytes("fitted_image_u8", &fitted.bytes, &io.bytes("fitted_image_u8"), 1.0);
    assert!(max_difference(&image, io.get("image")) < 2.1 / 255.0);
    let image_latent = vae.encode_mode(io.get("image")).unwrap();
    io.assert_close("image_latent", &image_latent, 3e-5);

    let step3 = unet.text_context(io.get("step3_context")).unwrap();
    let rows = Rows { texts: vec![(0, 1), (1, 1), (2, 1)], shared: vec![] };
    let eps = unet.forward(io.get("step3_unet_input"), io.get("step3_t"), &step3, &rows).unwrap();
    io.assert_close("step3_eps", &eps, 5e-5);

    let text = unet.text_context(&Tensor::cat(&[io.get("cond"), io.get("uncond")], 0).unwrap()).unwrap();
    let (initial, steps) = (io.f32s("initial_noise"), io.f32s("step_noises"));
    let noise = |draw: u64, out: &mut [f32]| match draw as usize {
        0 => out.copy_from_slice(&initial),
        draw => out.copy_from_slice(&steps[(draw - 1) * out.len()..draw * out.len()]),
    };
    let guidance = Guidance { text: params.cfg_text, image: params.cfg_image };
    let edit = Edit { unet, image_latent: &image_latent, text: &text, guidance, steps: params.steps, noise: &noise };
    let mut after = |step: usize, x: &Tensor| {
        let difference = max_difference(x, &io.get("latents_after_step").get(step).unwrap());
        assert!(difference <= 3e-3, "after step {step}: {difference:e}");
    };
    let latents = edit.run(&mut after).unwrap();
    io.assert_close("final", &latents, 3e-3);
    let decoded = vae.decode(&latents).unwrap();
    io.assert_close("decoded", &decoded, 5e-4);
    let written = Rgb8::from_tensor(&each_image(&to_unit(&decoded).unwrap()).unwrap()[0]).unwrap();
    assert_bytes("output_u8", &written.bytes, &io.bytes("output_u8"), 0.005);
}
