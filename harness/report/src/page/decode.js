// Decodes the packed data of the page: base64 of gzip of a header and columns. See columns.rs.

async function unpack(base64) {
  const text = atob(base64.trim());
  const bytes = Uint8Array.from(text, (char) => char.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// The header, with its columns as arrays by name.
function decode(bytes) {
  const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  const data = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  const columns = {};
  let at = 4 + length;
  for (const [name, count] of data.columns) {
    // A + marks a column of differences.
    const deltas = name[0] === "+";
    const column = new Float64Array(count);
    let last = 0;
    for (let i = 0; i < count; i++) {
      // Zigzag LEB128. Sums and products instead of bit operations, which are limited to 32 bits.
      let number = 0, scale = 1, byte;
      do {
        byte = bytes[at++];
        number += (byte & 127) * scale;
        scale *= 128;
      } while (byte > 127);
      number = number % 2 ? -(number + 1) / 2 : number / 2;
      column[i] = deltas ? (last += number) : number;
    }
    columns[deltas ? name.slice(1) : name] = column;
  }
  return { ...data, columns };
}
