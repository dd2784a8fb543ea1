import { nullTranslator } from '@jupyterlab/translation';
import { ReactWidget } from '@jupyterlab/ui-components';
import { Widget } from '@lumino/widgets';
import React from 'react';
import { PoolMeters } from '../panels/notebook/pool';
import type { IPool } from '../tokens';

const GB = 1024 ** 3;
const trans = nullTranslator.load('jupyterlab');

const HOST: IPool = {
  name: 'host',
  driver: '',
  memory: {
    limit: 8 * GB,
    reservation: 0,
    used: GB,
    free: 6 * GB,
    promised: 2 * GB
  },
  cpu: null,
  vcpus: { host: 2, promised: 1 },
  sandboxes: []
};

async function draw(pool: IPool): Promise<HTMLElement> {
  const widget = ReactWidget.create(<PoolMeters pool={pool} trans={trans} />);
  Widget.attach(widget, document.body);
  await widget.renderPromise;
  return widget.node;
}

describe('PoolMeters', () => {
  it('shows what is promised of the host', async () => {
    const node = await draw(HOST);
    const meter = node.querySelector('[role="meter"]');
    expect(meter?.getAttribute('aria-valuetext')).toBe(
      'host: 2.00 GB of 8.00 GB promised'
    );
    expect(meter?.getAttribute('aria-valuemax')).toBe(`${8 * GB}`);
    expect(node.querySelector('[data-vsandbox="pool"]')?.textContent).toBe(
      'Memory: 1.00 GB used · 6.00 GB free · limit 8.00 GB'
    );
  });

  it('shows the limits and the reservation of a resource pool', async () => {
    const node = await draw({
      ...HOST,
      name: 'iot-pool',
      driver: 'vsphere:iot-pool',
      memory: { ...HOST.memory, limit: null, reservation: GB, free: null },
      cpu: { limit: 3000, reservation: 500, used: 900, free: 2100 }
    });
    const meter = node.querySelector('[role="meter"]');
    expect(meter?.getAttribute('aria-valuetext')).toBe(
      'iot-pool: 2.00 GB promised'
    );
    expect(meter?.hasAttribute('data-high')).toBe(false);
    expect(node.querySelector('[data-vsandbox="pool"]')?.textContent).toBe(
      'Memory: 1.00 GB used · no limit · 1.00 GB reserved' +
        'CPU: 900 MHz used · 2.1 GHz free · limit 3.0 GHz · 500 MHz reserved'
    );
  });
});
