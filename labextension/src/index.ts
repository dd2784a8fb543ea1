import type { JupyterFrontEndPlugin } from '@jupyterlab/application';
import { commands, sidebar } from './plugins/panel';
import { model, service, store } from './plugins/data';
import { launcher } from './plugins/launcher';
import { status } from './plugins/status';

export { CommandIDs } from './commands';
export * from './tokens';

const plugins: JupyterFrontEndPlugin<unknown>[] = [
  service,
  store,
  model,
  commands,
  sidebar,
  status,
  launcher
];

export default plugins;
