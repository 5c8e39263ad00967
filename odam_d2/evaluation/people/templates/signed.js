// CRC-32, as zlib has it; it shows whether a file was changed after it was saved.
function checksum(text) {
  let crc = ~0;
  for (const byte of new TextEncoder().encode(text)) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (0xedb88320 & -(crc & 1));
  }
  return (~crc >>> 0).toString(16).padStart(8, "0");
}

// Give somebody what they said as a file, with its checksum.
function saveSigned(content, name) {
  const text = JSON.stringify({ ...content, checksum: checksum(JSON.stringify(content)) });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = name;
  link.click();
  $("saved").textContent = `Saved as ${link.download}, in your folder of downloads.`;
}
